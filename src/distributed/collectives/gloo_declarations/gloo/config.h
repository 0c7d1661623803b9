// Nothing of Gloo's configuration is needed here: see context.h.
#pragma once
