// Nothing of Gloo's algorithms is needed here: see context.h.
#pragma once
