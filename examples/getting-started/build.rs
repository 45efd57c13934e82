//! Generates messages, client and trait from the .proto file.

fn main() -> Result<(), rsf_build::Error> {
    rsf_build::compile(&["greeting.proto"], &["proto"])
}
