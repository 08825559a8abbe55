// What C++ and Python agree on: codes, layouts and signatures. leapgen_kernels.interface declares the same.
//
// Everything stands in SHARED(...), of which interface.h makes declarations and interface.cpp a text that the library
// carries. Python refuses a library whose text differs from its own.

// -- attention -------------------------------------------------------------------------------------------------------------

// A plan is one array of int64: this header, pools, slots, query starts, KV lengths, segments, block table
// (attention/plan.h). `next_layer` is the layer that the next call of an AttendKernel serves; the call adds one.
SHARED(struct PlanHeader { int64_t sequences, tokens, page_size, max_pages, segments, layers, next_layer; })

// Sequences first .. last - 1 attend to positions start .. end - 1, whose pages they share. A sequence meets its positions
// level by level, in order, and is alone in its last segment.
SHARED(struct Segment { int64_t level, first, last, start, end; })

// Segments that several sequences share end at multiples of it: a multiple of the keys in a tile of every kernel.
SHARED(constexpr int64_t kTile = 32)

// Of query, key and value in elements, from token to token and from head to head; dims are contiguous.
SHARED(struct Strides { int64_t query_token, query_head, key_token, key_head, value_token, value_head; })

// Stores a step's keys and values in the pool, and attends: `output` [tokens, heads, value_dim], zeros for tokens past the
// plan's. `sinks` [heads] or null; window 0 and softcap 0 are none; matrix tiles need scaling above 0.
SHARED(using AttendKernel = void(int64_t* plan, const void* query, const void* key, const void* value,
                                 const Strides* strides, void* output, int64_t tokens, int64_t heads, int64_t kv_heads,
                                 int64_t key_dim, int64_t value_dim, const float* sinks, int64_t window, float scaling,
                                 float softcap, int threads))

// -- linear layers ---------------------------------------------------------------------------------------------------------

// y = x W^T + bias for each of some matrices: x [rows, depth], rows x_stride apart; w[i] [columns[i], depth]; bias[i]
// [columns[i]] or null; y[i] [rows, columns[i]].
SHARED(using LinearKernel = void(const void* x, const void* const* w, const void* const* bias, void* const* y,
                                 const int64_t* columns, int64_t matrices, int64_t rows, int64_t depth, int64_t x_stride,
                                 int threads))

// The function f of gated layers.
SHARED(enum class Gate : int64_t{kNone, kSilu, kGelu, kGeluTanh, kRelu})

// Elements along the sum in one product of matrix tiles; the width between gated layers is a multiple of it.
SHARED(constexpr int64_t kTileDepth = 32)

// y = (f(x V^T + a) * (x W^T + b)) U^T + c for w = V, W, U and bias = a, b, c, or null each: V and W [inner, depth], U
// [columns, inner].
SHARED(using GatedKernel = void(const void* x, const void* const* w, const void* const* bias, void* y, int64_t gate,
                                int64_t rows, int64_t depth, int64_t x_stride, int64_t inner, int64_t columns, int threads))

// -- programs --------------------------------------------------------------------------------------------------------------

// A program is one array of int64: this header, for each buffer its offset in the workspace in bytes a token, and stages.
// Memories are the inputs, numbered first, and the buffers.
SHARED(struct ProgramHeader { int64_t inputs, buffers; })

SHARED(enum class StageKind : int64_t{kEnd, kRowwise, kLinear, kAttend, kGated})

// `length` int64 follow.
SHARED(struct StageHeader { int64_t kind, length; })

// `invariant` loop-invariant instructions follow, whose results all tokens share, then `varying` that run for each token.
// They work on `scratch` floats.
SHARED(struct RowwiseStage { int64_t invariant, varying, scratch; })

SHARED(enum class Operation : int64_t{kLoadFloat32, kLoadBfloat16, kStoreFloat32, kStoreBfloat16, kFill, kAdd, kSubtract,
                                      kMultiply, kDivide, kNegate, kRsqrt, kRelu, kTanh, kSigmoid, kSilu, kGelu, kGeluTanh,
                                      kMean})

// Element (o, i) of a loop nest lies at start + o * outer + i * inner.
SHARED(struct Access { int64_t start, outer, inner; })

// An operation on `outer` times `inner` numbers. Accesses are to scratch memory; `a` of a load and `out` of a store are to a
// token's row in a memory, and a row stride of 0 loads the same row for every token. `value` is what kFill writes.
SHARED(struct Instruction {
  int64_t operation, outer, inner;
  Access out, a, b;
  int64_t memory, row_stride;
  double value;
})

// The LinearOperands of each matrix follow, then the columns of each. A field that names a memory holds its number; a bias
// may be -1: none.
SHARED(struct LinearStage { int64_t x, offset, row_stride, depth, matrices; })
SHARED(struct LinearOperands { int64_t weight, bias, output; })

SHARED(struct AttendStage {
  int64_t plan, output, query, query_offset, key, key_offset, value, value_offset;
  Strides strides;
  int64_t heads, kv_heads, key_dim, value_dim, window;
  double scaling, softcap;
})

// Stands before the three stages, `replaced` int64 long, that compute the same where there is no kernel for gated layers.
SHARED(struct GatedStage {
  int64_t replaced, x, offset, row_stride, depth, gate, inner;
  int64_t gate_weight, gate_bias, factor_weight, factor_bias, down_weight, down_bias, output, columns;
})

// Runs programs one after the other. `inputs` are those of all programs in a row; `workspace` has the bytes a token that the
// largest of them asks for; `item` is the size in bytes of a number that kernels read and write. `gated` may be null.
SHARED(using LayersRunner = void(const int64_t* const* codes, int64_t layers, void* const* inputs, char* workspace,
                                 int64_t tokens, int64_t item, LinearKernel* linear, GatedKernel* gated,
                                 AttendKernel* attend, int threads))

// -- sampling --------------------------------------------------------------------------------------------------------------

// The most likely tokens of each row of logits, and a token drawn from them; sampling.cpp describes the arguments.
SHARED(using CandidatesKernel = void(const void* logits, int64_t rows, int64_t vocab, int64_t stride, int64_t k,
                                     int64_t capacity, float* normalisers, float* scores, int64_t* ids, int64_t* counts,
                                     int exponentials, double temperature, double top_p, double min_p,
                                     const double* uniforms, int64_t* tokens, float* token_logits, float* logprobs,
                                     int threads))
