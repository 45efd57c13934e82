//! What must survive: the cases that `make reliability` runs, each a fault, its figures, and what must hold.
//!
//! A case is one file, `t05.rs`, with one test `t05_…` a backend that it holds for, and its negative control
//! `t05_control_…`: with the guard switched off the case must be red. Each is written with [`rsf_suite::Case`], which
//! prints the case's line, and takes two minutes at most. `make reliability CASES=T05,T23` runs some of them; `make test`
//! runs none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a case has nothing better to do with an error"
)]

#[path = "../../../../rsf-registry/tests/cluster/bad_lists.rs"]
mod bad_lists;
mod ground;
mod open_loop;
mod outage;
mod packets;
mod plain_subscriber;
mod raw_directory;
mod source_fault;

mod t01;
mod t02;
mod t03;
mod t04;
mod t05;
mod t06;
mod t07;
mod t08;
mod t09;
mod t10;
mod t12;
mod t13;
mod t16;
mod t17;
mod t18;
mod t20;
mod t21;

mod t23;
mod t24;
mod t25;
mod t26;
mod t27;
mod t28;
mod t29;
mod t31;
mod t32;
mod t34;
mod t37;
mod t39;
mod t40;
mod t41;
mod t42;
