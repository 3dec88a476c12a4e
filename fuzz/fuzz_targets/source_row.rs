#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent_sync::fuzzing::source_row::run(data));
