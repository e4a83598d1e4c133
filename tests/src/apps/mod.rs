//! Real applications in pods. Each is a running program that ends when
//! dropped; `need` says what to install where one is missing.

mod iperf;
mod nginx;
mod postgres;
mod redis;

pub use iperf::{Iperf, Transfer};
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use redis::Redis;
