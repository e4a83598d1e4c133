//! What the hooks share: the maps, and how to read and report.
//!
//! There are no decisions here. A hook reads what the kernel gives it, asks a
//! pure function of `mtls-common`, and acts on the answer.
#![no_std]
#![feature(asm_experimental_arch)]

pub mod context;
pub mod facts;
pub mod maps;
pub mod pending;
pub mod report;

/// Programs that call GPL-only helpers must say so.
#[macro_export]
macro_rules! object {
    () => {
        #[unsafe(no_mangle)]
        #[unsafe(link_section = "license")]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

        /// The verifier proves that no program can get here.
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }
    };
}
