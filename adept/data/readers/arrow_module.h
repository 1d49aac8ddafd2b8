// The interface of libadept_arrow.so, which reads Parquet and Arrow files through Arrow C++. The program loads it when
// it opens the first such file, so that it starts, and works with other text, without Arrow's libraries.
#pragma once

#include "adept/data/readers/reader.h"

namespace adept::data {

enum class ArrowForm { kParquet, kIpc };

/// A Reader of the file that `fd` has open, which it takes. Its values may be invalid UTF-8, and it does not look at
/// signals: the caller does both. Throws DataError.
using MakeArrowReader = Reader*(const ReaderOptions& options, ArrowForm form, int fd);
inline constexpr char kMakeArrowReader[] = "adept_make_arrow_reader";
inline constexpr char kArrowModule[] = "libadept_arrow.so";

}  // namespace adept::data
