// The library's C interface: every function that it exports, and what stands in shared.h.

#pragma once

#include <cstdint>

namespace leapgen {

#define SHARED(...) __VA_ARGS__;
#include "shared.h"
#undef SHARED

// Attention over pages: stores a step's keys and values in the pool, then attends; `output` [tokens, heads, value_dim],
// zeros for tokens past the plan's. `sinks` [heads] or null; window 0 and softcap 0 are none. By matrix tiles scaling is
// above 0.
using AttendKernel = void(int64_t* plan, const void* query, const void* key, const void* value, const Strides* strides,
                          void* output, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t key_dim, int64_t value_dim,
                          const float* sinks, int64_t window, float scaling, float softcap, int threads);

// y = x W^T + bias for each of some matrices: x [rows, depth], rows x_stride apart; w[i] [columns[i], depth]; bias[i]
// [columns[i]] or null; y[i] [rows, columns[i]].
using LinearKernel = void(const void* x, const void* const* w, const void* const* bias, void* const* y,
                          const int64_t* columns, int64_t matrices, int64_t rows, int64_t depth, int64_t x_stride,
                          int threads);

// y = (f(x V^T + a) * (x W^T + b)) U^T + c for w = V, W, U and bias = a, b, c, or null each: V and W [inner, depth], U
// [columns, inner].
using GatedKernel = void(const void* x, const void* const* w, const void* const* bias, void* y, int64_t gate, int64_t rows,
                         int64_t depth, int64_t x_stride, int64_t inner, int64_t columns, int threads);

// The most likely tokens of each row of logits, and a token drawn from them; sampling.cpp describes the arguments.
using CandidatesKernel = void(const void* logits, int64_t rows, int64_t vocab, int64_t stride, int64_t k, int64_t capacity,
                              float* normalisers, float* scores, int64_t* ids, int64_t* counts, int exponentials,
                              double temperature, double top_p, double min_p, const double* uniforms, int64_t* tokens,
                              float* token_logits, float* logprobs, int threads);

#pragma GCC visibility push(default)
extern "C" {

// The declarations of shared.h, one a line.
const char* leapgen_interface();

// Whether this machine multiplies matrix tiles (AMX) in hardware; `amx_model` computes them in software.
int leapgen_has_amx();

AttendKernel leapgen_attend_float32, leapgen_attend_bfloat16, leapgen_attend_amx, leapgen_attend_amx_model;
LinearKernel leapgen_linear_float32, leapgen_linear_bfloat16, leapgen_linear_amx, leapgen_linear_amx_model;
GatedKernel leapgen_gated_amx, leapgen_gated_amx_model;
CandidatesKernel leapgen_candidates_float32, leapgen_candidates_bfloat16;

// Runs programs one after the other. `inputs` are those of all programs in a row; `workspace` has the bytes a token that the
// largest of them asks for; `item` is the size in bytes of a number that kernels read and write. `gated` may be null.
void leapgen_layers(const int64_t* const* codes, int64_t layers, void* const* inputs, char* workspace, int64_t tokens,
                    int64_t item, LinearKernel* linear, GatedKernel* gated, AttendKernel* attend, int threads);

// Whether programs take sixteen floats at a time; tests turn it off.
extern int leapgen_layers_wide;

}  // extern "C"
#pragma GCC visibility pop

}  // namespace leapgen
