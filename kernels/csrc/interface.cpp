// The text of shared.h, which the library carries.

#include "interface.h"

#define SHARED(...) #__VA_ARGS__ "\n"

const char* leapgen::leapgen_interface() {
  return
#include "shared.h"
      ;
}
