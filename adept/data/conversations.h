// Conversations of a source as documents, rendered by a model's chat template. Internal to adept::data.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "adept/data/chat_template.h"
#include "adept/data/readers/reader.h"

namespace adept::data {

/// A rendered conversation, or why there is none.
struct ConversationText {
  std::string text{};
  std::vector<TextSpan> answers{};  ///< ascending; empty: all of the text is trained on
  std::string position{};           ///< of the record
  Fault fault{};                    ///< reason empty: good
};

/// Renders conversations in batches, because templates run in a child process.
class ConversationRenderer {
 public:
  ConversationRenderer(const ChatTemplate& chat, TrainOn train_on) : chat_(chat), train_on_(train_on) {}

  /// Takes the messages of a record, as JSON. A bad record keeps its place among the others.
  void add(std::string_view messages, const std::string& position);
  void add_bad(Fault fault, const std::string& position);
  /// Whether a batch is complete.
  bool is_full() const;
  /// Renders what was added, in order, into `ready`. Logs the first conversation of which the template omits text.
  void render(std::deque<ConversationText>& ready);

 private:
  const ChatTemplate& chat_;
  TrainOn train_on_;
  std::vector<ConversationText> waiting_;
  std::vector<Json> messages_;  // of those in waiting_ that are good when they are added
  std::size_t num_bytes_ = 0;
  bool has_warned_ = false;
};

}  // namespace adept::data
