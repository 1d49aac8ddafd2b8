#include "adept/io/hub.h"

#include <gmock/gmock.h>
#include <pwd.h>
#include <unistd.h>

#include "tests/support/environment.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using test::config_error;
using test::data_error;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::HasSubstr;

constexpr char kCommit[] = "0123456789abcdef0123456789abcdef01234567";
constexpr char kOldCommit[] = "fedcba9876543210fedcba9876543210fedcba98";

// The environment of the cache, emptied, and put back at the end.
class HubTest : public testing::Test {
 protected:
  // A repository in this cache with two snapshots; main and refs/pr/1 name the first, the second has no name.
  static std::filesystem::path make_repository(const std::filesystem::path& cache, const std::string& folder) {
    const auto repository = cache / folder;
    std::filesystem::create_directories(repository / "snapshots" / kCommit);
    std::filesystem::create_directories(repository / "snapshots" / kOldCommit);
    std::filesystem::create_directories(repository / "refs/refs/pr");
    test::write(repository / "refs/main", kCommit);
    test::write(repository / "refs/refs/pr/1", std::string(kCommit) + "\n");
    return repository;
  }

  const TemporaryDirectory directory_;
  const adept::test::ScopedVariable hf_hub_cache_{"HF_HUB_CACHE"}, old_hub_cache_{"HUGGINGFACE_HUB_CACHE"},
      hf_home_{"HF_HOME"}, place_{"ADEPT_TEST_PLACE", directory_.path().string()}, xdg_cache_home_{"XDG_CACHE_HOME"},
      home_{"HOME", directory_.path().string()};
};

TEST_F(HubTest, ADirectoryIsItself) { EXPECT_EQ(resolve_model(directory_.path().string()), directory_.path()); }

TEST_F(HubTest, TheCacheIsWhereHuggingFaceHubPutsIt) {
  const std::string folder = "models--org--name";
  const auto found = [] { return resolve_model("org/name").parent_path().parent_path(); };
  const auto by_home = make_repository(directory_ / ".cache/huggingface/hub", folder);
  EXPECT_EQ(found(), by_home);
  const auto by_xdg = make_repository(directory_ / "xdg/huggingface/hub", folder);
  xdg_cache_home_.set((directory_ / "xdg").string());
  EXPECT_EQ(found(), by_xdg);
  const auto by_hf_home = make_repository(directory_ / "hf/hub", folder);
  hf_home_.set("~/hf");
  EXPECT_EQ(found(), by_hf_home);
  const auto by_old_name = make_repository(directory_ / "old", folder);
  old_hub_cache_.set((directory_ / "old").string());
  EXPECT_EQ(found(), by_old_name);
  const auto by_hub_cache = make_repository(directory_ / "cache", folder);
  hf_hub_cache_.set((directory_ / "cache").string());
  EXPECT_EQ(found(), by_hub_cache);
}

// As Python's os.path.expanduser and expandvars, which huggingface_hub applies.
TEST_F(HubTest, VariablesAndHomesInTheCacheAreExpanded) {
  const auto found = [] { return resolve_model("org/name").parent_path().parent_path(); };
  const auto repository = make_repository(directory_ / "place/hub", "models--org--name");
  for (const char* value : {"$ADEPT_TEST_PLACE/place/hub", "${ADEPT_TEST_PLACE}/place/hub", "~/place/hub",
                            "$HOME/place//hub", "${HOME}/place/hub/"}) {
    hf_hub_cache_.set(value);
    EXPECT_TRUE(std::filesystem::equivalent(found(), repository)) << value;
  }
  hf_hub_cache_.set(std::nullopt);
  hf_home_.set("$ADEPT_TEST_PLACE/place");
  EXPECT_EQ(found(), repository);
  hf_home_.set(std::nullopt);
  xdg_cache_home_.set("${ADEPT_TEST_PLACE}/xdg");
  const auto by_xdg = make_repository(directory_ / "xdg/huggingface/hub", "models--org--name");
  EXPECT_EQ(found(), by_xdg);
  for (const char* value :
       {"$ADEPT_TEST_NO_SUCH", "a$", "$", "${", "${ADEPT_TEST_NO_SUCH}/b", "${}", "~no-such-user/x"}) {
    hf_hub_cache_.set(value);
    EXPECT_THAT(config_error([] { resolve_model("org/name"); }),
                HasSubstr(std::string("(") + value + "/models--org--name)"));
  }
}

TEST_F(HubTest, RevisionsAreBranchesTagsOrCommits) {
  const auto repository = make_repository(directory_ / ".cache/huggingface/hub", "models--org--name");
  EXPECT_EQ(resolve_model("org/name"), repository / "snapshots" / kCommit);
  EXPECT_EQ(resolve_model("org/name@main"), repository / "snapshots" / kCommit);
  EXPECT_EQ(resolve_model("org/name@refs/pr/1"), repository / "snapshots" / kCommit);
  EXPECT_EQ(resolve_model(std::string("org/name@") + kOldCommit), repository / "snapshots" / kOldCommit);
  const auto legacy = make_repository(directory_ / ".cache/huggingface/hub", "models--gpt2");
  EXPECT_EQ(resolve_model("gpt2"), legacy / "snapshots" / kCommit);
}

TEST_F(HubTest, AMissSaysWhichCommandDownloads) {
  EXPECT_THAT(config_error([] { resolve_model("org/name"); }),
              AllOf(HasSubstr("org/name: is neither a folder nor in the local Hugging Face cache"),
                    HasSubstr((directory_ / ".cache/huggingface/hub/models--org--name").string()),
                    HasSubstr("`hf download org/name`")));
  const auto repository = make_repository(directory_ / ".cache/huggingface/hub", "models--org--name");
  EXPECT_THAT(config_error([] { resolve_model("org/name@v2"); }),
              AllOf(HasSubstr("`hf download org/name --revision v2`"),
                    HasSubstr(std::string("other revisions: ") + kCommit + ", " + kOldCommit)));
  std::filesystem::remove_all(repository / "snapshots");
  EXPECT_THAT(config_error([] { resolve_model("org/name"); }), HasSubstr("`hf download org/name`"));
  home_.set(std::nullopt);
  const std::string home = getpwuid(getuid())->pw_dir;
  EXPECT_THAT(config_error([] { resolve_model("org/name2"); }),
              HasSubstr("(" + home + "/.cache/huggingface/hub/models--org--name2)"));
}

TEST_F(HubTest, NothingLeadsOutOfTheCache) {
  const auto repository = make_repository(directory_ / ".cache/huggingface/hub", "models--org--name");
  for (const char* id : {"", "/none", "./none", "org/name/more", "../name", "org/..", "org/name@", "org/name@../..",
                         "org/name@a//b", "org/name@/etc", "org name", "org\\name", "a..b/c", "@main"})
    EXPECT_THAT(config_error([&] { resolve_model(id); }), HasSubstr("neither an existing folder nor a Hub id")) << id;
  for (const std::string& ref : {std::string("../../.."), std::string(), std::string("/etc"), std::string("a\0b", 3)}) {
    test::write(repository / "refs/main", ref);
    EXPECT_THAT(data_error([] { resolve_model("org/name"); }), HasSubstr("does not contain a commit id")) << ref;
  }
  test::write(repository / "refs/main", std::string(10'000, 'a'));
  EXPECT_THAT(data_error([] { resolve_model("org/name"); }), HasSubstr("refs/main: the text is longer than"));
}

TEST_F(HubTest, FilesAreNoModels) {
  test::write(directory_ / "model.safetensors", "");
  test::write(directory_ / "model.gguf", "");
  EXPECT_THAT(config_error([&] { resolve_model((directory_ / "model.safetensors").string()); }),
              HasSubstr("is a file; expected a model folder"));
  EXPECT_THAT(config_error([&] { resolve_model((directory_ / "model.gguf").string()); }),
              HasSubstr("`adept import-gguf --gguf " + (directory_ / "model.gguf").string() + " --out DIR`"));
}

}  // namespace
}  // namespace adept::io
