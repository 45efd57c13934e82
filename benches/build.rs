//! Generates the echo service twice, for RSF and for tonic, from one .proto.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = ["proto/echo.proto"];
    let out = std::env::var("OUT_DIR")?;
    rsf_build::Config::new()
        .rsf_path("crate::rsf")
        .compile(&protos, &["proto"])?;
    // Same name for the same package, so into a folder of its own.
    let tonic = format!("{out}/tonic");
    std::fs::create_dir_all(&tonic)?;
    let schema = protox::compile(protos, ["proto"])?;
    tonic_prost_build::configure()
        .out_dir(&tonic)
        .compile_fds(schema)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
