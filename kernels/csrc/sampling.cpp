// The most likely tokens of each row of logits, without a sort of the vocabulary: one pass for the largest of each block of
// 64, from which a threshold follows that at least k logits reach; then only the blocks that reach it are looked into. And a
// token drawn from them: temperature, top-k, top-p, min-p and the draw by inversion, as leapgen.engine.sampling.host does it.

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "isa/vector.h"

namespace leapgen {
namespace {

constexpr int64_t kBlock = 64;

struct Candidate {
  float score;
  int64_t id;
};

struct Scratch {
  std::vector<float> tops, sorted;  // of each block
  std::vector<Candidate> found;
  std::vector<double> weights;
};

// Settings of a draw, the same for all rows, and what comes of it, a number a row.
struct Draw {
  double temperature, top_p, min_p;  // 1 and 0: no filter
  const double* uniforms;            // in [0, 1)
  int64_t* tokens;                   // null: nothing is drawn
  float *logits, *logprobs;          // of the token: as it came; under the distribution it was drawn from
};

template <typename T>
struct Job {
  const T* logits;  // [rows, vocab], rows `stride` apart
  int64_t rows, vocab, stride, k, room;
  float* normalisers;  // [rows]: log of the sum of exponentials if `exponentials`, else the largest; NaN where not finite
  float* scores;       // [rows, room], most likely first, ties by id; -inf past the last; null: not asked for
  int64_t* ids;        // [rows, room], or null
  int64_t* counts;     // [rows]: logits that reach the k-th; more than `room` where not all found a place
  int exponentials;
  Draw draw;
};

// The largest of each block and of the row; NaN for the row if a logit is NaN or +inf.
template <typename T>
FOR_EVERY_CPU float largest(const T* row, int64_t vocab, float* tops) {
  Vector bad{};
  float top = -INFINITY, bad_tail = 0.0f;
  for (int64_t first = 0; first < vocab; first += kBlock) {
    const int64_t end = std::min(first + kBlock, vocab);
    Vector tops_here = splat(-INFINITY);
    int64_t i = first;
    for (; i + kLanes <= end; i += kLanes) {
      const Vector x = load(row + i);
      tops_here = larger(tops_here, x);
      bad = x < INFINITY ? bad : splat(1.0f);
    }
    float here = -INFINITY;
    for (int lane = 0; lane < kLanes; ++lane) here = std::max(here, tops_here[lane]);
    for (; i < end; ++i) {
      const float x = to_float(row[i]);
      if (!(x < INFINITY)) bad_tail = 1.0f;
      here = std::max(here, x);
    }
    tops[first / kBlock] = here;
    top = std::max(top, here);
  }
  for (int lane = 0; lane < kLanes; ++lane) bad_tail += bad[lane];
  return bad_tail > 0.0f ? NAN : top;
}

template <typename T>
FOR_EVERY_CPU double sum_of_exponentials(const T* row, int64_t vocab, float top) {
  double sum = 0.0;
  for (int64_t first = 0; first < vocab; first += 8 * kBlock) {
    const int64_t end = std::min(first + 8 * kBlock, vocab);
    Vector sums{};
    int64_t i = first;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      Vector x[4];
      for (int part = 0; part < 4; ++part) x[part] = load(row + i + part * kLanes) - top;
      exp_negative<4>(x);
      for (const Vector& e : x) sums += e;
    }
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    for (; i < end; ++i) sum += std::exp(to_float(row[i]) - top);
  }
  return sum;
}

// Candidates come most likely first; `weights` is room for as many numbers.
void draw(const Draw& settings, int64_t r, const Candidate* candidates, int64_t count, double* weights) {
  double total = 0.0, kept = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    weights[i] = std::exp((static_cast<double>(candidates[i].score) - candidates[0].score) / settings.temperature);
    total += weights[i];
  }
  double before = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const double weight = weights[i];
    if ((settings.top_p < 1.0 && before >= settings.top_p * total) || weight < settings.min_p) weights[i] = 0.0;
    before += weight;
    kept += weights[i];
  }
  const double target = settings.uniforms[r] * kept;
  double sum = 0.0;
  int64_t chosen = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (weights[i] > 0.0) chosen = i;  // the last that may be drawn, should rounding leave the target beyond all
    sum += weights[i];
    if (sum > target) break;
  }
  settings.tokens[r] = candidates[chosen].id;
  settings.logits[r] = candidates[chosen].score;
  settings.logprobs[r] = static_cast<float>(std::log(weights[chosen] / kept));
}

template <typename T>
void find(const Job<T>& job, int64_t r, Scratch& scratch) {
  const T* row = job.logits + r * job.stride;
  job.counts[r] = 0;
  if (job.scores) {
    std::fill(job.scores + r * job.room, job.scores + (r + 1) * job.room, -INFINITY);
    std::fill(job.ids + r * job.room, job.ids + (r + 1) * job.room, 0);
  }
  const int64_t blocks = (job.vocab + kBlock - 1) / kBlock;
  scratch.tops.resize(blocks);
  const float top = largest(row, job.vocab, scratch.tops.data());
  job.normalisers[r] = top;
  if (!std::isfinite(top)) return;
  if (job.exponentials) job.normalisers[r] = top + static_cast<float>(std::log(sum_of_exponentials(row, job.vocab, top)));

  float threshold = -INFINITY;
  if (blocks > job.k) {
    scratch.sorted = scratch.tops;
    std::nth_element(scratch.sorted.begin(), scratch.sorted.begin() + job.k - 1, scratch.sorted.end(), std::greater<float>());
    threshold = scratch.sorted[job.k - 1];
  }
  scratch.found.clear();
  for (int64_t block = 0; block < blocks; ++block) {
    if (!(scratch.tops[block] >= threshold)) continue;
    for (int64_t i = block * kBlock; i < std::min((block + 1) * kBlock, job.vocab); ++i) {
      const float x = to_float(row[i]);
      if (x >= threshold) scratch.found.push_back({x, i});
    }
  }
  auto& found = scratch.found;
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
  };
  const int64_t k = std::min<int64_t>(job.k, found.size());
  std::nth_element(found.begin(), found.begin() + k - 1, found.end(), before);
  const float kth = found[k - 1].score;
  const auto end = std::partition(found.begin(), found.end(), [kth](const Candidate& c) { return c.score >= kth; });
  job.counts[r] = end - found.begin();
  if (job.counts[r] > job.room) return;
  std::sort(found.begin(), end, before);
  if (job.draw.tokens) {
    scratch.weights.resize(job.counts[r]);
    draw(job.draw, r, found.data(), job.counts[r], scratch.weights.data());
  }
  for (int64_t i = 0; job.scores && i < job.counts[r]; ++i) {
    job.scores[r * job.room + i] = found[i].score;
    job.ids[r * job.room + i] = found[i].id;
  }
}

template <typename T>
void find_all(const Job<T>& job, int threads) {
#pragma omp parallel num_threads(threads)
  {
    thread_local Scratch scratch;
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < job.rows; ++r) find(job, r, scratch);
  }
}

}  // namespace
}  // namespace leapgen

#define LEAPGEN_EXPORT(NAME, T)                                                                                            \
  extern "C" __attribute__((visibility("default"))) void leapgen_candidates_##NAME(                                        \
      const T* logits, int64_t rows, int64_t vocab, int64_t stride, int64_t k, int64_t room, float* normalisers,           \
      float* scores, int64_t* ids, int64_t* counts, int exponentials, double temperature, double top_p, double min_p,      \
      const double* uniforms, int64_t* tokens, float* token_logits, float* logprobs, int threads) {                        \
    leapgen::find_all(leapgen::Job<T>{logits, rows, vocab, stride, k, room, normalisers, scores, ids, counts,              \
                                      exponentials,                                                                        \
                                      {temperature, top_p, min_p, uniforms, tokens, token_logits, logprobs}},              \
                      threads);                                                                                            \
  }

LEAPGEN_EXPORT(float32, float)
LEAPGEN_EXPORT(bfloat16, leapgen::BFloat16)
