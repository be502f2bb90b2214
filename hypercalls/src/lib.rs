//! PAPR hypercalls and the TCE engine.
