// Sampling: the most likely tokens of each row of logits, and a token drawn from them.
//
// The vocabulary is not sorted. One pass finds the largest logit of each block; the k-th largest of these is a threshold
// that at least k logits reach, and only blocks that reach it are searched. Temperature, top-k, top-p, min-p and the draw by
// inversion are those of leapgen.engine.sampling.host.

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "interface.h"
#include "isa/math.h"

namespace leapgen {
namespace {

constexpr int64_t kBlockLogits = 64;

struct Candidate {
  float score;
  int64_t id;
};

struct Workspace {
  std::vector<float> tops, sorted;  // the largest logit of each block
  std::vector<Candidate> candidates;
  std::vector<double> weights;
};

// A draw from each row: settings for all rows, and results [rows].
struct Draw {
  double temperature, top_p, min_p;  // top_p 1 and min_p 0: no filter
  const double* uniforms;            // [rows], in [0, 1)
  int64_t* tokens;                   // or null: nothing is drawn
  float *logits, *logprobs;          // of the token: as given, and under the distribution it is drawn from
};

template <typename T>
struct Selection {
  const T* logits;  // [rows, vocab], rows `stride` apart
  int64_t rows, vocab, stride, k, capacity;
  float* normalisers;  // [rows]: logsumexp if `exponentials`, else the largest logit; not finite where the logits are not
  float* scores;       // [rows, capacity], most likely first, ties by id, -inf past the last; or null
  int64_t* ids;        // [rows, capacity], or null
  int64_t* counts;     // [rows]: logits that reach the k-th largest; above `capacity` nothing is stored or drawn
  int exponentials;
  Draw draw;
};

// The largest logit of each block and of the row; NaN for the row if a logit is NaN or +inf.
template <typename T>
FOR_EVERY_CPU float largest(const T* row, int64_t vocab, float* tops) {
  Vector bad{};
  float top = -INFINITY, bad_tail = 0.0f;
  for (int64_t first = 0; first < vocab; first += kBlockLogits) {
    const int64_t end = std::min(first + kBlockLogits, vocab);
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
    tops[first / kBlockLogits] = here;
    top = std::max(top, here);
  }
  for (int lane = 0; lane < kLanes; ++lane) bad_tail += bad[lane];
  return bad_tail > 0.0f ? NAN : top;
}

template <typename T>
FOR_EVERY_CPU double sum_of_exponentials(const T* row, int64_t vocab, float top) {
  double sum = 0.0;
  for (int64_t first = 0; first < vocab; first += 8 * kBlockLogits) {
    const int64_t end = std::min(first + 8 * kBlockLogits, vocab);
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

// Draws a token of row r. Candidates come most likely first; `weights` is scratch memory for `count` numbers.
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
    if (weights[i] > 0.0) chosen = i;  // rounding may leave the target above the sum: then the last that may be drawn
    sum += weights[i];
    if (sum > target) break;
  }
  settings.tokens[r] = candidates[chosen].id;
  settings.logits[r] = candidates[chosen].score;
  settings.logprobs[r] = static_cast<float>(std::log(weights[chosen] / kept));
}

template <typename T>
void select_row(const Selection<T>& job, int64_t r, Workspace& workspace) {
  const T* row = job.logits + r * job.stride;
  job.counts[r] = 0;
  if (job.scores) {
    std::fill(job.scores + r * job.capacity, job.scores + (r + 1) * job.capacity, -INFINITY);
    std::fill(job.ids + r * job.capacity, job.ids + (r + 1) * job.capacity, 0);
  }
  const int64_t blocks = (job.vocab + kBlockLogits - 1) / kBlockLogits;
  workspace.tops.resize(blocks);
  const float top = largest(row, job.vocab, workspace.tops.data());
  job.normalisers[r] = top;
  if (!std::isfinite(top)) return;
  if (job.exponentials) job.normalisers[r] = top + static_cast<float>(std::log(sum_of_exponentials(row, job.vocab, top)));

  float threshold = -INFINITY;
  if (blocks > job.k) {
    workspace.sorted = workspace.tops;
    std::nth_element(workspace.sorted.begin(), workspace.sorted.begin() + job.k - 1, workspace.sorted.end(),
                     std::greater<float>());
    threshold = workspace.sorted[job.k - 1];
  }
  workspace.candidates.clear();
  for (int64_t block = 0; block < blocks; ++block) {
    if (!(workspace.tops[block] >= threshold)) continue;
    for (int64_t i = block * kBlockLogits; i < std::min((block + 1) * kBlockLogits, job.vocab); ++i) {
      const float x = to_float(row[i]);
      if (x >= threshold) workspace.candidates.push_back({x, i});
    }
  }
  auto& candidates = workspace.candidates;
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
  };
  const int64_t k = std::min<int64_t>(job.k, candidates.size());
  std::nth_element(candidates.begin(), candidates.begin() + k - 1, candidates.end(), before);
  const float kth = candidates[k - 1].score;
  const auto end =
      std::partition(candidates.begin(), candidates.end(), [kth](const Candidate& c) { return c.score >= kth; });
  job.counts[r] = end - candidates.begin();
  if (job.counts[r] > job.capacity) return;
  std::sort(candidates.begin(), end, before);
  if (job.draw.tokens) {
    workspace.weights.resize(job.counts[r]);
    draw(job.draw, r, candidates.data(), job.counts[r], workspace.weights.data());
  }
  for (int64_t i = 0; job.scores && i < job.counts[r]; ++i) {
    job.scores[r * job.capacity + i] = candidates[i].score;
    job.ids[r * job.capacity + i] = candidates[i].id;
  }
}

template <typename T>
void select_rows(const Selection<T>& job, int threads) {
#pragma omp parallel num_threads(threads)
  {
    thread_local Workspace workspace;
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < job.rows; ++r) select_row(job, r, workspace);
  }
}

}  // namespace

#define LEAPGEN_CANDIDATES(NAME, T)                                                                                        \
  void leapgen_candidates_##NAME(const void* logits, int64_t rows, int64_t vocab, int64_t stride, int64_t k,               \
                                 int64_t capacity, float* normalisers, float* scores, int64_t* ids, int64_t* counts,       \
                                 int exponentials, double temperature, double top_p, double min_p, const double* uniforms, \
                                 int64_t* tokens, float* token_logits, float* logprobs, int threads) {                     \
    const Draw draw{temperature, top_p, min_p, uniforms, tokens, token_logits, logprobs};                                  \
    select_rows(Selection<T>{static_cast<const T*>(logits), rows, vocab, stride, k, capacity, normalisers, scores, ids,    \
                             counts, exponentials, draw},                                                                  \
                threads);                                                                                                  \
  }

LEAPGEN_CANDIDATES(float32, float)
LEAPGEN_CANDIDATES(bfloat16, BFloat16)

}  // namespace leapgen
