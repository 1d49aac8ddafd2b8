// Renders chat templates for the parity tests. Each line of standard input is an object with "directory", "messages"
// and, if one of several templates is meant, "name"; each line of the answer has "text" or "error".
#include <iostream>
#include <string>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/data/chat_template.h"

int main() {
  adept::init_logging();
  for (std::string line; std::getline(std::cin, line);) {
    const adept::Json request = adept::Json::parse(line);
    adept::Json answer;
    try {
      const auto chat_template = adept::data::ChatTemplate::from_model_dir(request.at("directory").get<std::string>(),
                                                                           request.value("name", ""));
      answer["text"] = chat_template.render(request.at("messages"));
    } catch (const adept::Error& error) {
      answer["error"] = error.what();
    }
    std::cout << answer.dump() << std::endl;
  }
}
