//! Generates the probe service.

fn main() -> Result<(), rsf_build::Error> {
    rsf_build::compile(&["suite/v1/probe.proto"], &["proto"])
}
