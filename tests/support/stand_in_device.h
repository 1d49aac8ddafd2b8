// A device that stands in for a GPU where there is none: tensors of the type PrivateUse1 in the memory of the host,
// which ATen's operations for the CPU compute. What makes the host wait for a GPU is counted.
//
// A program that links stand_in_device.cpp has the device. The code under test takes the paths of a GPU: a tensor there
// is not of the CPU, so that no kernel of adept/kernels reads it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <string>

namespace adept::test {

inline const c10::Device kStandIn(c10::DeviceType::PrivateUse1, 0);

/// What was called since the last reset, by name: operations in which the host waits for the device.
///
/// Of an operation of ATen on a tensor of the device:
/// * its result is a number on the host: _local_scalar_dense (under item, is_nonzero, bool, float), equal;
/// * the shape of its result depends on values: nonzero, masked_select, unique, bincount, repeat_interleave without a
///   size, and indexing with a mask ("index with a mask");
/// * it copies to the host and waits: to memory that is not pinned, or not asynchronously ("copy to the host");
/// * it copies to the device and waits: from memory that is not pinned, or not asynchronously ("copy to the device");
/// * it waits for an event ("event").
///
/// The device is as late as can be: an asynchronous copy to the host arrives when the host next waits for the device.
/// Its event is not done before, and its memory then holds other values.
std::map<std::string, std::int64_t> synchronizations();
void reset_synchronizations();

/// Of calls of an operation on the device, by its name without "aten::".
std::int64_t calls_on_device(const std::string& operation);

// For operations of the device.

/// A tensor of the CPU in the memory of one of the device; others as they are.
at::Tensor on_cpu(const at::Tensor& tensor);
/// The reverse.
at::Tensor on_device(const at::Tensor& tensor);
void count_call(const std::string& operation);

}  // namespace adept::test
