// Git LFS pointers: the few lines that a clone without git-lfs holds in place of a large file.
#pragma once

#include "base/file.h"

namespace moraine {

bool is_lfs_pointer(const File& file);

// Throws an input error that names the file when it is one. For whoever reads a file that a repository may hold.
void refuse_lfs_pointer(const File& file);

}  // namespace moraine
