//! How far away a tunnel's peer is, and how much may be on the way to it.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::settings::Settings;

/// What a round trip of a millisecond adds to a stream's window: enough for
/// 16 Gbit/s.
const A_MILLISECOND: u128 = 2 << 20;

impl Settings {
    /// What a stream's window may grow to when the peer is that far away. Near
    /// ones need no more for any rate: what is beyond it would only wait here.
    pub(super) fn window_over(&self, round_trip: Duration) -> u32 {
        let on_the_way = round_trip.as_micros() * A_MILLISECOND / 1_000;
        let most = self.far_window.max(self.max_window);
        u32::try_from(on_the_way)
            .unwrap_or(u32::MAX)
            .clamp(self.max_window, most)
    }
}

/// The kernel's smoothed estimate; nothing if it has none.
pub(super) fn round_trip(socket: &TcpStream) -> Duration {
    #[expect(unsafe_code, reason = "no library has this option")]
    #[expect(clippy::cast_possible_truncation, reason = "some hundred bytes")]
    // SAFETY: the structure is plain numbers, for which zero is a value, and
    // the kernel writes no more than its length.
    let info = unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let read = libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        );
        (read == 0).then_some(info)
    };
    info.map_or(Duration::ZERO, |info| {
        Duration::from_micros(u64::from(info.tcpi_rtt))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_window_grows_with_the_distance() {
        let settings = Settings::default();
        let over = |micros| settings.window_over(Duration::from_micros(micros));
        assert_eq!(over(0), settings.max_window);
        assert_eq!(over(1_500), settings.max_window);
        assert_eq!(over(3_000), 6 << 20);
        assert_eq!(over(10_000), settings.far_window);
        assert_eq!(over(10_000_000_000), settings.far_window);
    }

    #[test]
    fn the_kernel_knows_the_distance() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let here = round_trip(&socket);
        assert!(here > Duration::ZERO && here < Duration::from_secs(1));
    }
}
