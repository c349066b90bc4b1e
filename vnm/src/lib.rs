//! The desired network of a VM, and the fabrics it is applied to.
