// The library's C interface: every function that it exports, and what stands in shared.h.

#pragma once

#include <cstdint>

namespace leapgen {

#define SHARED(...) __VA_ARGS__;
#include "shared.h"
#undef SHARED

#pragma GCC visibility push(default)
extern "C" {

// The text of shared.h, a declaration a line.
const char* leapgen_interface();

// Whether this machine multiplies matrix tiles (AMX) in hardware; `amx_model` computes them in software.
int leapgen_has_amx();

AttendKernel leapgen_attend_float32, leapgen_attend_bfloat16, leapgen_attend_amx, leapgen_attend_amx_model;
LinearKernel leapgen_linear_float32, leapgen_linear_bfloat16, leapgen_linear_amx, leapgen_linear_amx_model;
GatedKernel leapgen_gated_amx, leapgen_gated_amx_model;
CandidatesKernel leapgen_candidates_float32, leapgen_candidates_bfloat16;

LayersRunner leapgen_layers;

// Whether programs take sixteen floats at a time; tests turn it off.
extern int leapgen_layers_wide;

}  // extern "C"
#pragma GCC visibility pop

}  // namespace leapgen
