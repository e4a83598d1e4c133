//! The head of a CONNECT request and of its answer: what we write, and what a
//! peer wrote, of which nothing is believed before it was taken apart.

use std::net::SocketAddr;

use super::hpack;
use crate::addr;

/// The longest `host:port` that can be an address: `[v6]:65535`, with room.
const MAX_ADDRESS: usize = 64;
/// The longest `forwarded` that is looked at.
const MAX_FORWARDED: usize = 512;
/// The longest `baggage` that is kept: a request that waits holds it.
const MAX_BAGGAGE: usize = 2_048;

/// The head of a CONNECT request, as we send it and as a peer sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Where the peer's daemon is to deliver: the destination application.
    /// Never v4-mapped when a peer sent it.
    pub authority: SocketAddr,
    /// The client application's address and port, as the peer's daemon claims
    /// it. Only the port can be believed, and the address of a gateway.
    pub forwarded: Option<SocketAddr>,
    /// The W3C trace context, which carries the connection's id.
    pub traceparent: Option<String>,
    /// Facts about the source workload, for the log; never for decisions.
    pub baggage: Option<String>,
}

impl ConnectRequest {
    /// Appends the header block. What would not be taken at the other end is
    /// left out rather than sent.
    pub(super) fn encode(&self, block: &mut Vec<u8>) {
        hpack::put_known(block, 2, b"CONNECT");
        hpack::put_known(block, 1, self.authority.to_string().as_bytes());
        if let Some(client) = self.forwarded {
            let forwarded = format!("for=\"{client}\"");
            hpack::put_literal(block, b"forwarded", forwarded.as_bytes());
        }
        for (name, value, keep) in [
            (
                "traceparent",
                &self.traceparent,
                is_traceparent as fn(&[u8]) -> bool,
            ),
            ("baggage", &self.baggage, is_baggage),
        ] {
            if let Some(value) = value.as_deref().map(str::as_bytes).filter(|v| keep(v)) {
                hpack::put_literal(block, name.as_bytes(), value);
            }
        }
    }
}

/// Why a head was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    /// It breaks HTTP/2: the stream is reset with PROTOCOL_ERROR.
    Malformed(&'static str),
    /// It is HTTP/2, but not what we take: answered with 400.
    NotForUs(&'static str),
}

/// Collects the fields of one head, request or answer.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    method: Option<bool>,
    authority: Option<Option<SocketAddr>>,
    status: Option<Option<u16>>,
    other_pseudo: bool,
    regular: bool,
    forwarded: Option<Option<SocketAddr>>,
    traceparent: Option<String>,
    baggage: Option<String>,
    malformed: Option<&'static str>,
}

impl HeadReader {
    /// Takes one field.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        if let Err(what) = self.take(name, value) {
            self.malformed.get_or_insert(what);
        }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
            return Err("a line break in a header");
        }
        if let Some(pseudo) = name.strip_prefix(b":") {
            if self.regular {
                return Err("a pseudo-header behind other headers");
            }
            let twice = match pseudo {
                b"method" => self.method.replace(value == b"CONNECT").is_some(),
                b"authority" => self.authority.replace(authority(value)).is_some(),
                b"status" => self.status.replace(status(value)).is_some(),
                b"scheme" | b"path" | b"protocol" => {
                    self.other_pseudo = true;
                    false
                }
                _ => return Err("an unknown pseudo-header"),
            };
            return if twice {
                Err("a pseudo-header twice")
            } else {
                Ok(())
            };
        }
        self.regular = true;
        if name.is_empty() || !name.iter().all(|b| is_token(*b) && !b.is_ascii_uppercase()) {
            return Err("a malformed header name");
        }
        match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => return Err("a header that HTTP/2 does not know"),
            // One claim about the client, or none: of two, either may be forged.
            b"forwarded" => {
                let claim = if self.forwarded.is_none() {
                    forwarded(value)
                } else {
                    None
                };
                self.forwarded = Some(claim);
            }
            b"traceparent" if self.traceparent.is_none() => {
                self.traceparent = text(value, is_traceparent);
            }
            b"baggage" if self.baggage.is_none() => self.baggage = text(value, is_baggage),
            _ => {}
        }
        Ok(())
    }

    /// The fields were those of a request.
    pub(super) fn request(self) -> Result<ConnectRequest, BadHead> {
        if let Some(what) = self.malformed {
            return Err(BadHead::Malformed(what));
        }
        let Some(connect) = self.method else {
            return Err(BadHead::Malformed("a request without a method"));
        };
        if self.status.is_some() {
            return Err(BadHead::Malformed("a request with a status"));
        }
        if !connect {
            return Err(BadHead::NotForUs("not a CONNECT"));
        }
        if self.other_pseudo {
            return Err(BadHead::Malformed(
                "a CONNECT with a scheme, path or protocol",
            ));
        }
        let Some(authority) = self.authority else {
            return Err(BadHead::Malformed("a CONNECT without an authority"));
        };
        Ok(ConnectRequest {
            authority: authority.ok_or(BadHead::NotForUs("the authority is not ip:port"))?,
            forwarded: self.forwarded.flatten(),
            traceparent: self.traceparent,
            baggage: self.baggage,
        })
    }

    /// The fields were those of an answer: its status.
    pub(super) fn answer(self) -> Result<u16, &'static str> {
        if let Some(what) = self.malformed {
            return Err(what);
        }
        if self.method.is_some() || self.authority.is_some() || self.other_pseudo {
            return Err("an answer with a request's pseudo-header");
        }
        self.status
            .flatten()
            .ok_or("an answer without a valid status")
    }
}

fn status(value: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(value).ok()?;
    let plain = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|s| plain && (100..1_000).contains(s))
}

/// `ip:port` and nothing else: no names, scopes, user info, leading zeros or
/// signs. A v4-mapped address is the v4 address it means.
fn authority(value: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(value)
        .ok()
        .filter(|text| text.len() <= MAX_ADDRESS && !text.contains('%'))?;
    let (_, port) = text.rsplit_once(':')?;
    let plain = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
    let addr: SocketAddr = text.parse().ok().filter(|_| plain)?;
    Some(addr::canonical(addr))
}

/// The client in a `Forwarded` header (RFC 7239) of exactly one hop:
/// `for="ip:port"`, with other pairs beside it or not.
fn forwarded(value: &[u8]) -> Option<SocketAddr> {
    if value.len() > MAX_FORWARDED || value.contains(&b'\\') {
        return None;
    }
    let mut rest = value;
    let mut client = None;
    loop {
        rest = rest.trim_ascii_start();
        let at = rest.iter().position(|b| !is_token(*b))?;
        let (name, behind) = rest.split_at(at);
        let behind = behind.strip_prefix(b"=").filter(|_| !name.is_empty())?;
        let (value, behind) = match behind.strip_prefix(b"\"") {
            Some(quoted) => {
                let end = quoted.iter().position(|b| *b == b'"')?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => {
                let end = behind.iter().position(|b| !is_token(*b));
                behind.split_at(end.unwrap_or(behind.len()))
            }
        };
        if name.eq_ignore_ascii_case(b"for") && client.replace(authority(value)?).is_some() {
            return None;
        }
        rest = behind.trim_ascii_start();
        if rest.is_empty() {
            return client;
        }
        // Anything but a further pair, above all the comma before a second
        // hop, leaves open whose word the first one is.
        rest = rest.strip_prefix(b";")?;
    }
}

fn text(value: &[u8], keep: fn(&[u8]) -> bool) -> Option<String> {
    let value = Some(value).filter(|value| keep(value))?;
    String::from_utf8(value.to_vec()).ok()
}

/// A W3C `traceparent` of version 0: the only one whose form is known.
fn is_traceparent(value: &[u8]) -> bool {
    let fields: Vec<&[u8]> = value.split(|b| *b == b'-').take(5).collect();
    let hex = |field: &[u8], len: usize| {
        field.len() == len && field.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |field: &[u8]| field.iter().any(|b| *b != b'0');
    matches!(fields[..], [b"00", trace, span, flags]
        if hex(trace, 32) && set(trace) && hex(span, 16) && set(span) && hex(flags, 2))
}

fn is_baggage(value: &[u8]) -> bool {
    value.len() <= MAX_BAGGAGE && value.iter().all(|b| matches!(b, b' '..=b'~'))
}

/// RFC 9110's `tchar`.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Result<ConnectRequest, BadHead> {
        let mut reader = HeadReader::default();
        for (name, value) in fields {
            reader.field(name.as_bytes(), value.as_bytes());
        }
        reader.request()
    }

    const CONNECT: [(&str, &str); 2] = [(":method", "CONNECT"), (":authority", "10.0.2.7:5432")];

    #[test]
    fn what_we_write_is_what_we_read() {
        let request = ConnectRequest {
            authority: "[fd00::7]:5432".parse().unwrap(),
            forwarded: Some("10.0.1.4:41022".parse().unwrap()),
            traceparent: Some(format!("00-{}-{}-01", "ab".repeat(16), "cd".repeat(8))),
            baggage: Some("k8s.namespace.name=shop,service.name=web".repeat(40)),
        };
        let mut block = vec![];
        request.encode(&mut block);
        let mut reader = HeadReader::default();
        let fields =
            hpack::Decoder::new().decode(&block, 16 << 10, |name, value| reader.field(name, value));
        assert_eq!(fields, Ok(hpack::Fields::All));
        assert_eq!(reader.request(), Ok(request));
    }

    #[test]
    fn authority_is_an_address_and_a_port() {
        for good in ["10.0.2.7:5432", "[fd00::7]:1", "[FD00::7]:65535"] {
            assert_eq!(
                authority(good.as_bytes()),
                Some(good.parse().unwrap()),
                "{good}"
            );
        }
        assert_eq!(
            authority(b"[::ffff:10.0.2.7]:80"),
            Some("10.0.2.7:80".parse().unwrap()),
            "a mapped address is the address it means"
        );
        for bad in [
            "",
            ":",
            "10.0.2.7",
            "10.0.2.7:",
            "10.0.2.7:0",
            "10.0.2.7:080",
            "10.0.2.7:+80",
            "10.0.2.7:65536",
            "010.0.2.7:80",
            "10.0.2:80",
            "web:80",
            "u@10.0.2.7:80",
            "10.0.2.7:80/",
            " 10.0.2.7:80",
            "10.0.2.7:80 ",
            "fd00::7:80",
            "[fd00::7%3]:80",
            "[fd00::7]",
            "[10.0.2.7]:80",
            "10.0.2.7:80,10.0.2.8:80",
            "\u{661}0.0.2.7:80",
        ] {
            assert_eq!(authority(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn forwarded_is_one_hop_or_nothing() {
        let client = Some("10.0.1.4:41022".parse().unwrap());
        for good in [
            r#"for="10.0.1.4:41022""#,
            r#"For="10.0.1.4:41022";host=web.shop"#,
            r#"proto=https; by="x,y;z" ;for="10.0.1.4:41022""#,
            r#"for="[::ffff:10.0.1.4]:41022""#,
        ] {
            assert_eq!(forwarded(good.as_bytes()), client, "{good}");
        }
        for bad in [
            "",
            "for",
            "for=",
            "for=10.0.1.4",
            r#"for="10.0.1.4""#,
            "for=10.0.1.4:41022",
            r#"for="10.0.1.4:41022"#,
            r#"for="10.0.1.4:41022", for="10.0.1.5:1""#,
            r#"for="10.0.1.4:41022";for="10.0.1.5:1""#,
            r#"for="10.0.1.4:\41022""#,
            r#"for="10.0.1.4:41022";"#,
            r#"for="10.0.1.4:41022"x"#,
            "for=unknown",
            r#"for="_hidden:80""#,
            r#"=;for="10.0.1.4:41022""#,
            r#"for="10.0.1.4:0""#,
        ] {
            assert_eq!(forwarded(bad.as_bytes()), None, "{bad}");
        }
        let long = format!(r#"host={};for="10.0.1.4:41022""#, "a".repeat(MAX_FORWARDED));
        assert_eq!(forwarded(long.as_bytes()), None);
    }

    #[test]
    fn two_forwarded_headers_are_none() {
        let mut fields = CONNECT.to_vec();
        fields.extend([("forwarded", r#"for="10.0.1.4:41022""#); 2]);
        assert_eq!(read(&fields).unwrap().forwarded, None);
    }

    #[test]
    fn facts_of_the_wrong_form_are_dropped() {
        let long = "a".repeat(MAX_BAGGAGE + 1);
        let zero = format!("00-{}-{}-01", "0".repeat(32), "cd".repeat(8));
        for (trace, baggage) in [
            ("00-short", "a=\u{7}"),
            (&zero, "a=\u{e4}"),
            (
                "00-ABABABABABABABABABABABABABABABAB-cdcdcdcdcdcdcdcd-01",
                &long,
            ),
        ] {
            let mut fields = CONNECT.to_vec();
            fields.extend([("traceparent", trace), ("baggage", baggage)]);
            let request = read(&fields).unwrap();
            assert_eq!((request.traceparent, request.baggage), (None, None));
        }
    }

    #[test]
    fn refuses_heads_that_are_no_connect() {
        let malformed = |fields: &[(&str, &str)]| {
            assert!(
                matches!(read(fields), Err(BadHead::Malformed(_))),
                "{fields:?}"
            );
        };
        malformed(&[]);
        malformed(&[CONNECT[0]]);
        malformed(&[CONNECT[1]]);
        malformed(&[CONNECT[0], CONNECT[1], CONNECT[1]]);
        malformed(&[CONNECT[0], CONNECT[1], (":path", "/")]);
        malformed(&[CONNECT[0], CONNECT[1], (":protocol", "websocket")]);
        malformed(&[CONNECT[0], CONNECT[1], (":status", "200")]);
        malformed(&[CONNECT[0], ("x", "y"), CONNECT[1]]);
        malformed(&[CONNECT[0], CONNECT[1], ("X", "y")]);
        malformed(&[CONNECT[0], CONNECT[1], ("", "y")]);
        malformed(&[CONNECT[0], CONNECT[1], (":x", "y")]);
        malformed(&[CONNECT[0], CONNECT[1], ("x", "y\r\nz: 1")]);
        malformed(&[CONNECT[0], CONNECT[1], ("connection", "close")]);
        for fields in [
            [(":method", "GET"), CONNECT[1]],
            [CONNECT[0], (":authority", "web:80")],
        ] {
            assert!(
                matches!(read(&fields), Err(BadHead::NotForUs(_))),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn answers_have_a_status() {
        let read = |fields: &[(&str, &str)]| {
            let mut reader = HeadReader::default();
            for (name, value) in fields {
                reader.field(name.as_bytes(), value.as_bytes());
            }
            reader.answer()
        };
        assert_eq!(read(&[(":status", "200"), ("server", "envoy")]), Ok(200));
        assert_eq!(read(&[(":status", "503")]), Ok(503));
        for bad in [
            &[][..],
            &[(":status", "20")],
            &[(":status", "+20")],
            &[(":status", "099")],
            &[(":status", "200"), (":status", "200")],
            &[(":status", "200"), (":method", "GET")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
