//! The deterministic state machine of Quorate.
