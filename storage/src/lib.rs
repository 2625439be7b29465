//! Bytes on disk for Quorate.
