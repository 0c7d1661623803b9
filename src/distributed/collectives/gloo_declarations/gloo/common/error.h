// Nothing of Gloo's error types is needed here (they derive from std::runtime_error): see context.h.
#pragma once
