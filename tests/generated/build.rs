//! Generates from .proto files that try the generator.

fn main() -> Result<(), rsf_build::Error> {
    rsf_build::Config::new()
        .rsf_path("crate::rsf")
        .include_file("all.rs")
        .bytes(".awkward.v1.Blob.content")
        .compile(
            &[
                "awkward/v1/awkward.proto",
                "no_package.proto",
                "shop/v1/member.proto",
            ],
            &["proto", "../../proto"],
        )
}
