//! All tests that need root, in one binary.

mod traffic;
