"""Routes to the float32 matrix product that assignment spends its time in."""
