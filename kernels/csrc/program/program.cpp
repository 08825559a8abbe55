// Programs: layers as linear layers and attention by their kernels, and everything between them row by row.
//
// What lies between two kernels (norms, rotary embeddings, activations, residual sums) is a list of instructions on one
// token's numbers, which stay in the cache. One call runs all stages of all layers. leapgen_kernels.program writes programs.

#include <algorithm>
#include <vector>

#include "interface.h"
#include "isa/scratch.h"
#include "program/instructions.h"

namespace leapgen {

int leapgen_layers_wide = is_wide();

namespace {

using RunInstructions = void(const Instruction*, int64_t, void* const*, int64_t, float*);

FOR_NARROW_CPUS void run_narrow(const Instruction* first, int64_t count, void* const* memories, int64_t token,
                                float* scratch) {
  run_instructions<Vector, Portable>(first, count, memories, token, scratch);
}
#ifdef FOR_WIDE_CPUS
FOR_WIDE_CPUS void run_wide(const Instruction* first, int64_t count, void* const* memories, int64_t token, float* scratch) {
  run_instructions<Wide, Avx512>(first, count, memories, token, scratch);
}
#else
constexpr RunInstructions* run_wide = run_narrow;
#endif

// Runs a stage for all tokens, a run of them in each thread. Every thread computes what is invariant for itself.
void run_rowwise(const RowwiseStage& stage, void* const* memories, int64_t tokens, int threads) {
  const auto* instructions = reinterpret_cast<const Instruction*>(&stage + 1);
  const int64_t team = std::min<int64_t>(threads, tokens);
  RunInstructions* const run = leapgen_layers_wide ? run_wide : run_narrow;
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static, 1)
  for (int64_t part = 0; part < team; ++part) {
    thread_local Scratch<float> scratch;
    if (static_cast<int64_t>(scratch.size()) < stage.scratch) scratch.resize(stage.scratch);
    run(instructions, stage.invariant, memories, 0, scratch.data());
    for (int64_t token = part * tokens / team; token < (part + 1) * tokens / team; ++token) {
      run(instructions + stage.invariant, stage.varying, memories, token, scratch.data());
    }
  }
}

// A program's memories, and the kernels that work on them.
struct Runner {
  const std::vector<void*>& memories;
  int64_t tokens, item;
  LinearKernel* linear;
  GatedKernel* gated;
  AttendKernel* attend;
  int threads;

  void* at(int64_t memory, int64_t offset) const { return static_cast<char*>(memories[memory]) + offset * item; }
  const void* optional(int64_t memory) const { return memory < 0 ? nullptr : memories[memory]; }

  void run(const LinearStage& stage) const {
    thread_local std::vector<void*> outputs;
    thread_local std::vector<const void*> weights, biases;
    weights.clear(), biases.clear(), outputs.clear();
    const auto* operands = reinterpret_cast<const LinearOperands*>(&stage + 1);
    const auto* columns = reinterpret_cast<const int64_t*>(operands + stage.matrices);
    for (const auto* one = operands; one < operands + stage.matrices; ++one) {
      weights.push_back(memories[one->weight]);
      biases.push_back(optional(one->bias));
      outputs.push_back(memories[one->output]);
    }
    linear(at(stage.x, stage.offset), weights.data(), biases.data(), outputs.data(), columns, stage.matrices, tokens,
           stage.depth, stage.row_stride, threads);
  }

  void run(const AttendStage& stage) const {
    attend(static_cast<int64_t*>(memories[stage.plan]), at(stage.query, stage.query_offset), at(stage.key, stage.key_offset),
           at(stage.value, stage.value_offset), &stage.strides, memories[stage.output], tokens, stage.heads, stage.kv_heads,
           stage.key_dim, stage.value_dim, nullptr, stage.window, static_cast<float>(stage.scaling),
           static_cast<float>(stage.softcap), threads);
  }

  void run(const GatedStage& stage) const {
    const void* const w[] = {memories[stage.gate_weight], memories[stage.factor_weight], memories[stage.down_weight]};
    const void* const bias[] = {optional(stage.gate_bias), optional(stage.factor_bias), optional(stage.down_bias)};
    gated(at(stage.x, stage.offset), w, bias, memories[stage.output], stage.gate, tokens, stage.depth, stage.row_stride,
          stage.inner, stage.columns, threads);
  }
};

void run_program(const int64_t* code, void* const* inputs, char* workspace, int64_t tokens, int64_t item,
                 LinearKernel* linear, GatedKernel* gated, AttendKernel* attend, int threads) {
  const auto& header = *reinterpret_cast<const ProgramHeader*>(code);
  const int64_t* offsets = reinterpret_cast<const int64_t*>(&header + 1);
  thread_local std::vector<void*> memories;
  memories.assign(inputs, inputs + header.inputs);
  for (int64_t i = 0; i < header.buffers; ++i) memories.push_back(workspace + offsets[i] * tokens);
  const Runner runner{memories, tokens, item, linear, gated, attend, threads};
  for (const int64_t* next = offsets + header.buffers;;) {
    const auto& stage = *reinterpret_cast<const StageHeader*>(next);
    const void* body = &stage + 1;
    next = static_cast<const int64_t*>(body) + stage.length;
    switch (static_cast<StageKind>(stage.kind)) {
      case StageKind::kEnd: return;
      case StageKind::kRowwise:
        run_rowwise(*static_cast<const RowwiseStage*>(body), memories.data(), tokens, threads);
        break;
      case StageKind::kLinear: runner.run(*static_cast<const LinearStage*>(body)); break;
      case StageKind::kAttend: runner.run(*static_cast<const AttendStage*>(body)); break;
      case StageKind::kGated:
        if (!gated) break;
        runner.run(*static_cast<const GatedStage*>(body));
        next += static_cast<const GatedStage*>(body)->replaced;
        break;
    }
  }
}

}  // namespace

void leapgen_layers(const int64_t* const* codes, int64_t layers, void* const* inputs, char* workspace, int64_t tokens,
                    int64_t item, LinearKernel* linear, GatedKernel* gated, AttendKernel* attend, int threads) {
  for (int64_t i = 0; i < layers; ++i) {
    run_program(codes[i], inputs, workspace, tokens, item, linear, gated, attend, threads);
    inputs += reinterpret_cast<const ProgramHeader*>(codes[i])->inputs;
  }
}

}  // namespace leapgen
