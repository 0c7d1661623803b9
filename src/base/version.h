// The program's version.
#pragma once

namespace moraine {

inline constexpr const char* kProgramVersion = "0.2.0";

}  // namespace moraine
