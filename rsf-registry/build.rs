//! Compiles the published schemas of `rsf.registry.v1`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../proto";
    println!("cargo:rerun-if-changed={root}/rsf/registry");
    let schemas = protox::compile(
        ["rsf/registry/v1/records.proto", "rsf/registry/v1/registry.proto"],
        [root],
    )?;
    tonic_prost_build::configure().compile_fds(schemas)?;
    Ok(())
}
