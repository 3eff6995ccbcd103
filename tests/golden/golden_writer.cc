// golden_writer DIRECTORY: writes the golden and broken files of this version below DIRECTORY
// (tests/golden).
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/golden/golden_files.h"

namespace {

bool write_file(const std::filesystem::path& path, const sealift::Bytes& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) std::fprintf(stderr, "golden_writer: cannot write %s\n", path.c_str());
  return !file.fail();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: golden_writer DIRECTORY\n");
    return 2;
  }
  const std::filesystem::path root = argv[1];
  bool written = true;
  for (const auto& file : sealift::golden::golden_files()) {
    written = write_file(root / file.name, file.bytes) && written;
  }
  for (const auto& file : sealift::golden::broken_files()) {
    written = write_file(root / file.name, file.bytes) && written;
  }
  return written ? 0 : 1;
}
