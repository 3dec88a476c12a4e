//! deploy/
