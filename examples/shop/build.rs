//! Generates the shop's messages, clients and traits.

fn main() -> Result<(), rsf_build::Error> {
    rsf_build::compile(
        &[
            "shop/v1/member.proto",
            "shop/v1/stock.proto",
            "shop/v1/order.proto",
        ],
        &["../../proto"],
    )
}
