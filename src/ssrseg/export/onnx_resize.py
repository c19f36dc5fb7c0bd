"""Pillow's bilinear resize along one axis, to the level, in ONNX's own operators.

onnxruntime's Resize computes in fp32 where a pixel lies, and for ratios such as 4 : 5 rounds a
tenth of the pixels to another level. Pillow: a triangle of the width of a new pixel, at least of an
old one; weights in fp64, rounded to 22 bits; integers from there on.
"""

from __future__ import annotations

OPSET = 20
FLOAT, UINT8, INT32, INT64, DOUBLE = 1, 2, 6, 7, 11
"""onnx.TensorProto's numbers of types."""

RESIZE = (
    # which pixels each new one sees, (new, taps); their weights in units of 2^-22, (new, taps, 1)
    f"""
<opset_import: ["" : {OPSET}], domain: "ssrseg">
taps (old, new) => (places, weights) {{
  zero = Constant<value = double {{0.0}}>()
  half = Constant<value = double {{0.5}}>()
  one = Constant<value = double {{1.0}}>()
  two = Constant<value = double {{2.0}}>()
  unit = Constant<value = double {{4194304.0}}>()
  second = Constant<value = int64[1] {{1}}>()
  third = Constant<value = int64[1] {{2}}>()
  ratio = Div(old, new)
  support = Max(ratio, one)
  sharpness = Div(one, support)
  end_new = Squeeze(new)
  number = Range(zero, end_new, one)
  middle = Add(number, half)
  centres = Mul(middle, ratio)
  centre = Unsqueeze(centres, second)
  shifted = Add(centre, half)
  lower = Sub(shifted, support)
  lower_whole = Floor(lower)
  first = Max(lower_whole, zero)
  upper = Add(shifted, support)
  upper_whole = Floor(upper)
  end = Min(upper_whole, old)
  reach = Ceil(support)
  both = Mul(reach, two)
  count = Add(both, one)
  end_count = Squeeze(count)
  tap = Range(zero, end_count, one)
  place = Add(first, tap)
  away = Sub(place, centre)
  away_middle = Add(away, half)
  away_unit = Mul(away_middle, sharpness)
  distance = Abs(away_unit)
  triangle = Sub(one, distance)
  positive = Max(triangle, zero)
  seen = Less(place, end)
  kept = Where(seen, positive, zero)
  total = ReduceSum(kept, second)
  share = Div(kept, total)
  scaled = Mul(share, unit)
  shifted_up = Add(scaled, half)
  whole = Floor(shifted_up)
  flat_weights = Cast<to = {INT32}>(whole)
  weights = Unsqueeze(flat_weights, third)
  last = Sub(old, one)
  there = Min(place, last)
  places = Cast<to = {INT64}>(there)
}}
""",
    # levels (batch, 3, old, other) to (batch, 3, new, other)
    f"""
<opset_import: ["" : {OPSET}], domain: "ssrseg">
resample (levels, places, weights) => (resampled) {{
  flat = Constant<value = int64[1] {{-1}}>()
  fourth = Constant<value = int64[1] {{3}}>()
  half = Constant<value = int32 {{2097152}}>()
  unit = Constant<value = int32 {{4194304}}>()
  all_places = Reshape(places, flat)
  taken = Gather<axis = 2>(levels, all_places)
  numbers = Cast<to = {INT32}>(taken)
  outer = Shape<start = 0, end = 2>(levels)
  new_and_taps = Shape(places)
  inner = Shape<start = 3, end = 4>(levels)
  shape = Concat<axis = 0>(outer, new_and_taps, inner)
  apart = Reshape(numbers, shape)
  weighted = Mul(apart, weights)
  sum = ReduceSum<keepdims = 0>(weighted, fourth)
  shifted = Add(sum, half)
  whole = Div(shifted, unit)
  resampled = Cast<to = {UINT8}>(whole)
}}
""",
)
