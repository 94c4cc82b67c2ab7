#include "tensors.h"

#include <cstring>

#include "half.h"

#if defined(__SANITIZE_ADDRESS__)
#define CONVEXT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CONVEXT_ADDRESS_SANITIZER 1
#endif
#endif

namespace convext_tests {

using convext::BFloat16;
using convext::DType;
using convext::Float16;

namespace {

#if defined(CONVEXT_ADDRESS_SANITIZER)
constexpr std::int64_t kGuard = 0;
#else
constexpr std::int64_t kGuard = 64;
#endif

}  // namespace

double rounded(DType dtype, double value) {
  const float single = static_cast<float>(value);
  switch (dtype) {
    case DType::kFloat32: return single;
    case DType::kBFloat16: return convext::widen(convext::narrow_bfloat16(single));
    case DType::kFloat16: return convext::widen(convext::narrow_float16(single));
    default: return value;
  }
}

Tensor::Tensor(DType dtype, const std::vector<std::int64_t>& size, Layout layout) {
  const std::int64_t n = size[0], c = size[1], h = size[2], w = size[3];
  std::int64_t elements = 0;  // of the storage
  std::vector<std::int64_t> stride;
  switch (layout) {
    case Layout::kContiguous:
      stride = {c * h * w, h * w, w, 1};
      elements = n * c * h * w;
      break;
    case Layout::kChannelsLast:
      stride = {h * w * c, 1, w * c, c};
      elements = n * c * h * w;
      break;
    case Layout::kSliced:
      stride = {c * (h + 1) * 2 * w, (h + 1) * 2 * w, 2 * w, 2};
      elements = n * stride[0];
      break;
    case Layout::kChannelsLastSliced:
      stride = {h * w * (c + 3), 1, w * (c + 3), c + 3};
      elements = n * stride[0];
      break;
    case Layout::kExpanded:
      stride = {0, h * w, w, 1};
      elements = c * h * w;
      break;
  }
  first_ = kGuard + (layout == Layout::kChannelsLastSliced ? 1 : 0);
  storage_.assign((elements + 2 * kGuard) * convext::bytes_of(dtype), 0xff);
  view_.data = storage_.data() + first_ * convext::bytes_of(dtype);
  view_.dtype = dtype;
  for (int i = 0; i < 4; ++i) {
    view_.size[i] = size[i];
    view_.stride[i] = stride[i];
  }
}

std::int64_t Tensor::numel() const {
  return view_.size[0] * view_.size[1] * view_.size[2] * view_.size[3];
}

std::int64_t Tensor::offset(std::int64_t i) const {
  std::int64_t offset = 0;
  for (int d = 3; d >= 0; --d) {
    offset += i % view_.size[d] * view_.stride[d];
    i /= view_.size[d];
  }
  return offset;
}

double Tensor::get(std::int64_t i) const {
  const void* data = view_.data;
  switch (view_.dtype) {
    case DType::kFloat32: return static_cast<const float*>(data)[offset(i)];
    case DType::kFloat64: return static_cast<const double*>(data)[offset(i)];
    case DType::kBFloat16: return convext::widen(static_cast<const BFloat16*>(data)[offset(i)]);
    case DType::kFloat16: return convext::widen(static_cast<const Float16*>(data)[offset(i)]);
    case DType::kInt8: return static_cast<const std::int8_t*>(data)[offset(i)];
    case DType::kUInt8: return static_cast<const std::uint8_t*>(data)[offset(i)];
    case DType::kInt16: return static_cast<const std::int16_t*>(data)[offset(i)];
    case DType::kInt32: return static_cast<const std::int32_t*>(data)[offset(i)];
    case DType::kInt64:
      return static_cast<double>(static_cast<const std::int64_t*>(data)[offset(i)]);
  }
  return 0;
}

void Tensor::set(std::int64_t i, double value) {
  void* data = view_.data;
  const float single = static_cast<float>(value);
  switch (view_.dtype) {
    case DType::kFloat32: static_cast<float*>(data)[offset(i)] = single; break;
    case DType::kFloat64: static_cast<double*>(data)[offset(i)] = value; break;
    case DType::kBFloat16:
      static_cast<BFloat16*>(data)[offset(i)] = convext::narrow_bfloat16(single);
      break;
    case DType::kFloat16:
      static_cast<Float16*>(data)[offset(i)] = convext::narrow_float16(single);
      break;
    case DType::kInt8: static_cast<std::int8_t*>(data)[offset(i)] = value; break;
    case DType::kUInt8: static_cast<std::uint8_t*>(data)[offset(i)] = value; break;
    case DType::kInt16: static_cast<std::int16_t*>(data)[offset(i)] = value; break;
    case DType::kInt32: static_cast<std::int32_t*>(data)[offset(i)] = value; break;
    case DType::kInt64: static_cast<std::int64_t*>(data)[offset(i)] = value; break;
  }
}

bool Tensor::surroundings_are_intact() const {
  std::vector<unsigned char> rest = storage_;
  const std::int64_t bytes = convext::bytes_of(view_.dtype);
  for (std::int64_t i = 0; i < numel(); ++i) {
    std::memset(rest.data() + (first_ + offset(i)) * bytes, 0xff, bytes);
  }
  for (unsigned char byte : rest) {
    if (byte != 0xff) return false;
  }
  return true;
}

}  // namespace convext_tests
