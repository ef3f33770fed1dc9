//! Asks a NameNode which ways to authenticate it takes, over a connection of its own.
//!
//! The client loses the reason when a NameNode refuses its way to authenticate (the connection just
//! ends), and would follow a NameNode that offers none at all. One request of the RPC protocol, sent
//! before any authentication, tells both. Nothing secret is sent.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::hadoop::wire::Reader;

/// Protocol 9, no service class, SASL, and the request `NEGOTIATE`.
const REQUEST: &[u8] = &[
    b'h', b'r', b'p', b'c', 9, 0, 0xdf, // connection header
    0, 0, 0, 14, // length of what follows
    10, 0x08, 2, 0x10, 0, 0x18, 65, 0x22, 0, 0x28,
    1, // header: protobuf, final, call -33, retry -1
    2, 0x10, 1, // state: negotiate
];

/// More than any NameNode says here; another kind of server may say anything.
const MAX_REPLY_BYTES: u32 = 64 * 1024;

/// The methods that the server at `address` offers, its favourite first: `TOKEN`, `KERBEROS`, or
/// `SIMPLE`. Has no deadline of its own.
pub(super) async fn offered_methods(address: &str) -> io::Result<Vec<String>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let length = stream.read_u32().await?;
    if length > MAX_REPLY_BYTES {
        return Err(no_namenode());
    }
    let mut reply = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut reply).await?;
    parse(&reply).ok_or_else(no_namenode)
}

fn no_namenode() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "what answers there does not speak as a NameNode does",
    )
}

fn parse(reply: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(reply);
    let _header = reader.message()?;
    let mut methods = Vec::new();
    for field in reader.message()?.fields() {
        let (4, auth) = field? else { continue };
        for field in Reader::new(auth.bytes()).fields() {
            if let (1, method) = field? {
                methods.push(method.text());
            }
        }
    }
    Some(methods)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a server answers is given; it reads the request whole first.
    async fn ask(reply: Vec<u8>) -> io::Result<Vec<String>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).await?;
            stream.write_all(&reply).await
        });
        let methods = offered_methods(&address).await;
        server.await??;
        methods
    }

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [
            &[number << 3 | 2, u8::try_from(bytes.len()).unwrap()],
            bytes,
        ]
        .concat()
    }

    #[tokio::test]
    async fn a_secure_namenode_offers_tokens_and_kerberos() {
        let auth =
            |method: &str| field(4, &[field(1, method.as_bytes()), field(3, b"nn")].concat());
        let sasl = [vec![0x10, 1], auth("TOKEN"), auth("KERBEROS")].concat();
        let body = [
            &[2, 0x08, 0][..],
            &[u8::try_from(sasl.len()).unwrap()],
            &sasl,
        ]
        .concat();
        let reply = [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat();
        assert_eq!(ask(reply).await.unwrap(), ["TOKEN", "KERBEROS"]);
    }

    #[tokio::test]
    async fn other_servers_are_an_error() {
        let http = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        assert_eq!(
            ask(http).await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert!(ask(vec![0, 0, 0, 2, 9, 9]).await.is_err());
        assert!(ask(vec![]).await.is_err());
    }
}
