"""What the run of kernel bypass in a QEMU guest is made of."""
