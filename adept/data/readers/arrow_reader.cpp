// Parquet and Arrow IPC files, through a library that is loaded when the first one is opened.
#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/signals.h"
#include "adept/data/readers/arrow_module.h"
#include "adept/data/readers/formats.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

// Beside the program (a build), or where `cmake --install` puts it.
MakeArrowReader* load_module(const fs::path& file) {
  std::error_code error;
  const fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  std::string problem = "it is not installed";
  for (const fs::path& path : {folder / kArrowModule, folder.parent_path() / "lib" / "adept" / kArrowModule}) {
    if (!fs::exists(path, error)) continue;
    if (void* module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); module != nullptr)
      if (void* symbol = ::dlsym(module, kMakeArrowReader); symbol != nullptr)
        return reinterpret_cast<MakeArrowReader*>(symbol);
    problem = ::dlerror();
  }
  throw DataError(
      "{}: Parquet and Arrow files are read through {}, which cannot be loaded ({}). Install pyarrow into the Python "
      "whose torch adept was built with (python -m pip install pyarrow), and call scripts/setup again.",
      file.string(), kArrowModule, problem);
}

class ArrowReader final : public Reader {
 public:
  ArrowReader(const ReaderOptions& options, ArrowForm form) {
    static MakeArrowReader* make = nullptr;
    if (make == nullptr) make = load_module(options.path);
    const UniqueFd file = io::open_rereadable(options.path);
    const int fd = ::dup(file.get());  // its owner closes it, also if opening fails
    if (fd < 0) throw system_error(options.path, "open for reading", errno);
    reader_.reset(make(options, form, fd));
  }

  ReadResult next(Record& record, Fault& fault) override {
    throw_if_interrupted();
    const ReadResult found = reader_->next(record, fault);
    if (found != ReadResult::kRecord) return found;
    for (const std::vector<Field>* fields : {&record.fields, &record.fallback})
      for (const Field& field : *fields)
        if (field.state == Field::State::kValue && !check_utf8(field.text, fault)) return ReadResult::kBad;
    return found;
  }
  std::string position() const override { return reader_->position(); }
  std::int64_t file_position() const override { return reader_->file_position(); }

 private:
  std::unique_ptr<Reader> reader_;
};

}  // namespace

std::unique_ptr<Reader> make_parquet_reader(const ReaderOptions& options) {
  return std::make_unique<ArrowReader>(options, ArrowForm::kParquet);
}
std::unique_ptr<Reader> make_arrow_reader(const ReaderOptions& options) {
  return std::make_unique<ArrowReader>(options, ArrowForm::kIpc);
}

}  // namespace adept::data
