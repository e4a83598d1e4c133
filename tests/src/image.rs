//! Container images, written without an engine: one layer, in an archive that
//! is an OCI layout and a Docker archive at once, as `docker save` writes it.
//! Equal contents make equal bytes.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::error::{Doing, Error, Result};

/// An image in the making.
#[derive(Debug)]
pub struct Image {
    layer: Tar,
    config: Value,
}

impl Image {
    /// An image that starts this.
    pub fn new(entrypoint: &[&str]) -> Self {
        Self {
            layer: Tar::default(),
            config: json!({"Entrypoint": entrypoint, "Env": ["PATH=/usr/bin:/bin"]}),
        }
    }

    /// Words that a pod may replace without replacing the entrypoint.
    #[must_use]
    pub fn arguments(mut self, words: &[&str]) -> Self {
        self.config["Cmd"] = json!(words);
        self
    }

    #[must_use]
    pub fn labels(mut self, labels: &Value) -> Self {
        self.config["Labels"] = labels.clone();
        self
    }

    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.layer.entry(path, b'5', mode, "", &[]);
        self
    }

    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.layer.entry(path, b'2', 0o777, target, &[]);
        self
    }

    #[must_use]
    pub fn text(mut self, path: &str, text: &str) -> Self {
        self.layer.entry(path, b'0', 0o644, "", text.as_bytes());
        self
    }

    /// A file of this machine, under `path` in the image.
    pub fn file(mut self, path: &str, source: &Path) -> Result<Self> {
        let reading = || format!("reading {}", source.display());
        let bytes = fs::read(source).doing(reading)?;
        let mode = fs::metadata(source).doing(reading)?.permissions().mode();
        self.layer.entry(path, b'0', mode & 0o755, "", &bytes);
        Ok(self)
    }

    /// A program with the shared libraries that it names, as the dynamic
    /// linker of this machine finds them.
    pub fn program(mut self, path: &str, source: &Path) -> Result<Self> {
        self = self.file(path, source)?;
        for library in libraries(source)? {
            // Where the linker looks; /lib is often a link to /usr/lib.
            self = self.file(&library.to_string_lossy(), &library)?;
        }
        Ok(self)
    }

    /// Writes the archive; `name` is a full one, such as example.org/app:1.
    pub fn write(self, name: &str, path: &Path) -> Result {
        let layer = self.layer.finish();
        let layer_id = hash(&layer);
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_id}")]},
            "history": [{"created_by": "cargo xtask image"}],
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("application/vnd.oci.image.config.v1+json", config.as_bytes()),
            "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string();
        let mut entry = described(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.as_bytes(),
        );
        let (_, tag) = name.rsplit_once(':').ok_or_else(|| {
            Error::Unexpected(format!("an image's name ends in a tag, :1, unlike {name}"))
        })?;
        entry["annotations"] = json!({
            "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag,
        });
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hash(bytes));
        let docker = json!([{
            "Config": blob(config.as_bytes()), "RepoTags": [name], "Layers": [blob(&layer)],
        }]);
        let mut archive = Tar::default();
        for (path, bytes) in [
            ("oci-layout", &b"{\"imageLayoutVersion\":\"1.0.0\"}"[..]),
            (
                "index.json",
                json!({"schemaVersion": 2, "manifests": [entry]})
                    .to_string()
                    .as_bytes(),
            ),
            ("manifest.json", docker.to_string().as_bytes()),
            (&blob(manifest.as_bytes()), manifest.as_bytes()),
            (&blob(config.as_bytes()), config.as_bytes()),
            (&blob(&layer), &layer),
        ] {
            archive.entry(path, b'0', 0o644, "", bytes);
        }
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(path)?;
            file.write_all(&archive.finish())?;
            file.sync_data()
        };
        write().doing(|| format!("writing {}", path.display()))
    }
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    let digest = format!("sha256:{}", hash(bytes));
    json!({"mediaType": kind, "digest": digest, "size": bytes.len()})
}

fn hash(bytes: &[u8]) -> String {
    let digits = digest(&SHA256, bytes);
    digits.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// In the words of Go, which images speak.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Of lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)`, and
/// `/lib64/ld-linux-x86-64.so.2 (0x7f)`; a static program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let said = std::process::Command::new("ldd")
        .arg(program)
        .output()
        .doing(|| "starting ldd")?;
    let text = String::from_utf8_lossy(&said.stdout);
    let words = text.lines().flat_map(str::split_whitespace);
    let paths = words.filter(|word| word.starts_with('/') && !word.ends_with(':'));
    Ok(paths.map(PathBuf::from).collect())
}

/// A tar archive: ustar, everything root's and made in 1970.
#[derive(Debug, Default)]
struct Tar(Vec<u8>);

impl Tar {
    const BLOCK: usize = 512;

    fn entry(&mut self, path: &str, kind: u8, mode: u32, target: &str, bytes: &[u8]) {
        let path = path.trim_start_matches('/');
        let mut header = [0_u8; Self::BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
        };
        assert!(path.len() <= 100 && target.len() <= 100, "too long: {path}");
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", bytes.len()).as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(Self::BLOCK), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * Self::BLOCK, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_reads_what_we_write() {
        let folder = std::env::temp_dir().join(format!("mtls-image-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let archive = folder.join("image.tar");
        Image::new(&["/bin/sh"])
            .program("bin/sh", Path::new("/bin/sh"))
            .unwrap()
            .folder("tmp", 0o1777)
            .link("bin/dash", "sh")
            .text("etc/motd", "hello\n")
            .write("local.test/sh:1", &archive)
            .unwrap();
        let inner = |words: &[&str]| {
            let out = Command::new("tar").args(words).arg(&archive).output();
            out.unwrap().stdout
        };
        let manifest: Value =
            serde_json::from_slice(&inner(&["-xO", "manifest.json", "-f"])).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "local.test/sh:1");
        let layer = manifest[0]["Layers"][0].as_str().unwrap();
        let bytes = inner(&["-xO", layer, "-f"]);
        assert_eq!(layer, format!("blobs/sha256/{}", hash(&bytes)));
        let root = folder.join("root");
        fs::create_dir_all(&root).unwrap();
        fs::write(folder.join("layer.tar"), bytes).unwrap();
        let unpacked = Command::new("tar")
            .arg("-C")
            .arg(&root)
            .arg("-xf")
            .arg(folder.join("layer.tar"))
            .status();
        assert!(unpacked.unwrap().success());
        assert_eq!(fs::read(root.join("etc/motd")).unwrap(), b"hello\n");
        assert_eq!(
            fs::read_link(root.join("bin/dash")).unwrap(),
            Path::new("sh")
        );
        // It has all that it needs: it runs with nothing else around.
        let alone = Command::new("chroot")
            .arg(&root)
            .args(["/bin/sh", "-c", "exit 7"])
            .status();
        assert_eq!(alone.unwrap().code(), Some(7));
        fs::remove_dir_all(folder).unwrap();
    }
}
