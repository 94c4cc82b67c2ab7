// What the drivers of fprop and dgrad set out from. Both compute a destination from a source; in
// dgrad the output's gradient is the source, and maps from an index and a tap lead the other way.
#pragma once

#include "../axis_map.h"
#include "../conv_plan.h"
#include "drivers.h"
#include "tap_classes.h"

namespace convext {

class DataPass {
 protected:
  DataPass(const ConvPlan& plan, const ConvTensors& t)
      : p_(plan.problem),
        forward_(plan.pass == Pass::kFprop),
        source_(forward_ ? t.input : t.output),
        destination_(forward_ ? t.output : t.input),
        weight_(t.weight),
        bias_(forward_ ? t.bias : TensorView{}),
        groups_(p_.groups),
        outputs_(forward_ ? p_.outputs_per_group() : p_.channels_per_group()),
        depth_(forward_ ? p_.channels_per_group() : p_.outputs_per_group()),
        output_stride_(t.weight.stride[forward_ ? 0 : 1]),
        depth_stride_(t.weight.stride[forward_ ? 1 : 0]) {}

  // From a destination's row or column and a tap to the source's.
  AxisMap row_map() const { return forward_ ? forward_map_h(p_) : invert(forward_map_h(p_), p_.H); }
  AxisMap column_map() const {
    return forward_ ? forward_map_w(p_) : invert(forward_map_w(p_), p_.W);
  }
  // The same of columns, as distances in packed rows; in dgrad for padding of zeros alone.
  AxisClasses column_classes() const {
    return forward_ ? forward_classes(p_.Q, p_.S, p_.stride_w, p_.dilation_w, p_.pad_left, p_.W,
                                      p_.padding_mode)
                    : backward_classes(p_.Q, p_.S, p_.stride_w, p_.dilation_w, p_.pad_left, p_.W);
  }

  const ConvProblem& p_;
  bool forward_;
  TensorView source_, destination_, weight_, bias_;
  std::int64_t groups_, outputs_, depth_;  // channels of a group: of the destination, the source
  std::int64_t output_stride_, depth_stride_;  // of the weight, between those channels
};

}  // namespace convext
