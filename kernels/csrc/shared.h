// What C++ and Python agree on. leapgen_kernels.interface declares the same names, in the same order.
//
// Everything here stands in SHARED(...): interface.h makes declarations of it, and interface.cpp a text that the library
// carries. Python refuses a library whose text is not its own. Fields of a type other than double are int64; a field that
// names a memory holds its number, -1 where there is none.

// -- plans, as leapgen.engine packs them: header, pools, slots, query starts, KV lengths, segments, block table
// -----------------

// `next_layer` is the layer that the next call of attention serves; each call adds one.
SHARED(struct PlanHeader { int64_t sequences, tokens, page_size, max_pages, segments, layers, next_layer; })

// Sequences first .. last - 1 attend to positions start .. end - 1, whose pages they share. A sequence meets its positions
// level by level, in order, and is alone in its last segment.
SHARED(struct Segment { int64_t level, first, last, start, end; })

// Segments that several sequences share end at multiples of it: a multiple of the keys in a tile of every kernel.
SHARED(constexpr int64_t kTile = 32)

// Of query, key and value in elements, from token to token and from head to head; dims are contiguous.
SHARED(struct Strides { int64_t query_token, query_head, key_token, key_head, value_token, value_head; })

// -- gated layers: (f(x V^T + a) * (x W^T + b)) U^T + c --------------------------------------------------------------------

// f; kNone is a layer without.
SHARED(enum class Gate : int64_t{kNone, kSilu, kGelu, kGeluTanh, kRelu})

// Elements along the sum in one product of matrix tiles; the width between gated layers is a multiple of it.
SHARED(constexpr int64_t kTileDepth = 32)

// -- programs: header, an offset in bytes a token for each buffer, then stages ---------------------------------------------

// Memories are the inputs, numbered first, and the buffers.
SHARED(struct ProgramHeader { int64_t inputs, buffers; })

SHARED(enum class StageKind : int64_t{kEnd, kRowwise, kLinear, kAttend, kGated})

// `length` of what follows, in int64.
SHARED(struct StageHeader { int64_t kind, length; })

// Instructions on one token's numbers, held in scratch memory of `scratch` floats: first those that give the same for all
// tokens, then those of each token.
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

// y = x W^T + bias for each of some matrices, whose LinearOperands follow, then the columns of each.
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
