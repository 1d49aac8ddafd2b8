// Token files of datatrove, little endian:
//
//     NAME.ds            ids, uint16, or uint32 for vocabularies of more than 65,536 ids
//     NAME.ds.index      D x uint64: the end of each document, in ids
//     NAME.ds.metadata   optional text, of which the first line may end in "|" and the bytes per id
#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/data/interchange/token_files.h"
#include "adept/io/mapped_file.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kDatatrovePart = std::size_t{1} << 16;
constexpr std::size_t kMaxMetadata = std::size_t{1} << 16;

class DatatroveReader : public TokenFileReader {
 public:
  explicit DatatroveReader(const fs::path& ds) : path_(ds), index_path_(ds.string() + ".index") {
    ds_ = io::MappedFile::open(path_);
    index_ = io::MappedFile::open(index_path_);
    check_index();
    check_width();
    if (is_present(ds.string() + ".loss"))
      log_warning("{}.loss: is ignored: adept trains on every token of a document", path_.string());
  }

  std::int64_t num_documents() const override { return std::ssize(index_->bytes()) / 8; }
  std::int64_t bytes_before(std::int64_t i) const override { return begin_of(i) * width_; }
  void read(std::int64_t i, FunctionRef<void(std::span<const std::int64_t>)> sink) const override {
    std::vector<std::int64_t> ids;
    const std::int64_t end = begin_of(i + 1);
    for (std::int64_t at = begin_of(i); at < end; ++at) {
      ids.push_back(id_at(at));
      if (ids.size() < kDatatrovePart && at + 1 < end) continue;
      sink(ids);
      ids.clear();
    }
  }
  std::optional<std::int64_t> last_id(std::int64_t i) const override {
    const std::int64_t end = begin_of(i + 1);
    return end == begin_of(i) ? std::nullopt : std::optional(id_at(end - 1));
  }
  const fs::path& path() const override { return path_; }

 private:
  std::int64_t begin_of(std::int64_t i) const {
    std::int64_t end = 0;
    if (i > 0) std::memcpy(&end, index_->bytes().data() + 8 * (i - 1), 8);
    return end;
  }

  std::int64_t id_at(std::int64_t at) const {
    const std::byte* from = ds_->bytes().data() + at * width_;
    if (width_ == 2) {
      std::uint16_t id;
      std::memcpy(&id, from, 2);
      return id;
    }
    std::uint32_t id;
    std::memcpy(&id, from, 4);
    return id;
  }

  void check_index() const {
    const std::int64_t size = std::ssize(index_->bytes());
    if (size % 8 != 0)
      throw DataError("{}: has {} bytes; expected 8 per document. It is cut short or damaged.", index_path_.string(),
                      size);
    for (std::int64_t i = 0; i < num_documents(); ++i)
      if (begin_of(i + 1) < begin_of(i))
        throw DataError("{}: document {} ends at token {}, before it starts at {}; it is damaged.",
                        index_path_.string(), i, static_cast<std::uint64_t>(begin_of(i + 1)), begin_of(i));
  }

  void check_width() {
    const std::int64_t size = std::ssize(ds_->bytes()), tokens = begin_of(num_documents());
    const std::int64_t width = tokens == 0 ? 2 : size / tokens;
    if ((width != 2 && width != 4) || tokens > size || width * tokens != size)
      throw DataError(
          "{}: has {} bytes for the {} tokens of {}; expected 2 or 4 bytes per token. It is cut short or "
          "damaged.",
          path_.string(), size, tokens, index_path_.filename().string());
    width_ = width;
    const fs::path metadata = path_.string() + ".metadata";
    if (!is_present(metadata)) return;
    std::string text = read_all(open_for_reading(metadata), metadata, kMaxMetadata);
    text = text.substr(0, text.find('\n'));
    const auto bar = text.rfind('|');
    std::int64_t stated = 0;
    if (bar == std::string::npos) return;
    const auto [end, error] = std::from_chars(text.data() + bar + 1, text.data() + text.size(), stated);
    if (error == std::errc() && end == text.data() + text.size() && tokens > 0 && stated != width)
      throw DataError("{}: says {} bytes per token, but {} has {}; they do not belong together.", metadata.string(),
                      stated, path_.filename().string(), width);
  }

  fs::path path_, index_path_;
  std::shared_ptr<const io::MappedFile> ds_, index_;
  std::int64_t width_ = 2;
};

}  // namespace

std::unique_ptr<TokenFileReader> open_datatrove(const fs::path& ds) { return std::make_unique<DatatroveReader>(ds); }

}  // namespace adept::data
