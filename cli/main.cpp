#include "cli/program.h"

int main(int argc, char** argv) { adept::cli::run_program(argc, argv); }
