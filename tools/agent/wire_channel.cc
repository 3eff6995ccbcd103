#include "tools/agent/wire_channel.h"

#include <array>
#include <random>
#include <utility>

#include "schemas/codec.h"

namespace sealift {

WireChannel::WireChannel(std::unique_ptr<Stream> stream, std::uint64_t session_id, FrameTap tap)
    : stream_(std::move(stream)), tap_(std::move(tap)), reader_(*stream_, session_id) {
  if (session_id != 0) writer_ = std::make_unique<FrameWriter>(*stream_, session_id, tap_);
}

Result<void> WireChannel::send(Record record) {
  const EncodedRecord encoded = encode(std::move(record));
  FrameWriter* writer = nullptr;
  {
    const std::lock_guard lock(writer_mutex_);
    if (!writer_ && reader_.session_id() != 0) {
      writer_ = std::make_unique<FrameWriter>(*stream_, reader_.session_id(), tap_);
    }
    writer = writer_.get();
  }
  if (writer == nullptr) {
    return fail(ErrorClass::kDisconnected, "{} said nothing that could be answered",
                stream_->peer());
  }
  return writer->write(encoded.type, encoded.stream, encoded.meta, encoded.payload);
}

Result<Record> WireChannel::receive() {
  if (first_) {
    Result<Record> first = std::move(*first_);
    first_.reset();
    return first;
  }
  for (;;) {
    SEALIFT_TRY(Frame frame, reader_.read());
    SEALIFT_TRY(std::optional<Record> record,
                decode(frame.type, frame.stream, frame.meta, std::move(frame.payload)));
    if (record) return std::move(*record);  // otherwise optional and unknown: skipped
  }
}

void WireChannel::drain() {
  std::array<std::byte, 16384> dropped;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  while (stream_->read_some(dropped)) {
  }
}

std::uint64_t new_session_id() {
  std::random_device random;
  std::uint64_t id = 0;
  while (id == 0) id = std::uint64_t{random()} << 32 | random();
  return id;
}

}  // namespace sealift
