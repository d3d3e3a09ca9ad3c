// SPDX-License-Identifier: GPL-2.0

//! The images that the machines boot from: cpio archives in the kernel's `newc` format, written here.
//!
//! An image is named after what is in it, so that it is built once and found again, and not compressed:
//! unpacking would be done by the emulated CPU.

use super::{Flavour, HYPERV_CLOCK, Task, guest_args};
use crate::setup::Artifacts;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands at a path of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    Symlink(String),
    /// Permissions and content.
    File(u32, Source),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Text(String),
    Path(PathBuf),
}

impl Source {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Source::Text(text) => Ok(text.clone().into_bytes()),
            Source::Path(path) => {
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))
            }
        }
    }
}

/// A tree of files to be.
#[derive(Debug, Default)]
pub struct Image {
    nodes: BTreeMap<String, Node>,
}

impl Image {
    /// Adds a directory and all above it.
    pub fn dir(&mut self, path: &str) {
        for (i, c) in path.char_indices() {
            if c == '/' && i > 0 {
                self.nodes.entry(path[..i].to_owned()).or_insert(Node::Dir);
            }
        }
        if !path.is_empty() {
            self.nodes.entry(path.to_owned()).or_insert(Node::Dir);
        }
    }

    fn add(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
        self.nodes.insert(path.to_owned(), node);
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, Node::Symlink(target.to_owned()));
    }

    pub fn script(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, Node::File(0o755, Source::Text(text.into())));
    }

    /// Adds a file from this machine, executable if it is so here.
    pub fn file(&mut self, path: &str, from: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let meta =
            fs::metadata(from).with_context(|| format!("the image needs {}", from.display()))?;
        if !meta.is_file() {
            bail!(
                "the image needs {} as a file, and it is none",
                from.display()
            );
        }
        let mode = if meta.permissions().mode() & 0o111 != 0 {
            0o755
        } else {
            0o644
        };
        self.add(path, Node::File(mode, Source::Path(from.to_owned())));
        Ok(())
    }

    /// Adds all that is in a directory of this machine.
    pub fn tree(&mut self, path: &str, from: &Path) -> Result<()> {
        for entry in walkdir::WalkDir::new(from).min_depth(1) {
            let entry =
                entry.with_context(|| format!("cannot read the directory {}", from.display()))?;
            let inside = entry
                .path()
                .strip_prefix(from)
                .context("a walk that left its root")?;
            let to = format!("{path}/{}", inside.display());
            if entry.file_type().is_symlink() {
                let target = fs::read_link(entry.path())
                    .with_context(|| format!("cannot read the link {}", entry.path().display()))?;
                self.symlink(&to, &target.to_string_lossy());
            } else if entry.file_type().is_file() {
                self.file(&to, entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes the image to `dir` unless it is there, and returns where it is.
    pub fn build(&self, dir: &Path, name: &str) -> Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut archive = Vec::new();
        self.write(&mut archive)?;
        let key: String = Sha256::digest(&archive)
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect();
        let path = dir.join(format!("{name}-{key}.cpio"));
        if !path.exists() {
            let full = || format!("cannot write {}: is the disk full?", path.display());
            let mut file = tempfile::NamedTempFile::new_in(dir).with_context(full)?;
            file.write_all(&archive).with_context(full)?;
            file.persist(&path).with_context(full)?;
            forget_old(dir, name, &path);
        }
        Ok(path)
    }

    fn write(&self, out: &mut impl Write) -> Result<()> {
        let mut cpio = Cpio {
            out: BufWriter::new(out),
            written: 0,
            inode: 0,
        };
        for (path, node) in &self.nodes {
            let content;
            let (mode, data): (u32, &[u8]) = match node {
                Node::Dir => (0o040_755, &[]),
                Node::Symlink(target) => (0o120_777, target.as_bytes()),
                Node::File(mode, source) => {
                    content = source.read()?;
                    (0o100_000 | mode, &content)
                }
            };
            cpio.entry(path, mode, data)
                .with_context(|| format!("cannot archive {path}"))?;
        }
        cpio.finish().context("cannot finish an archive")
    }
}

/// Keeps the newest few: whoever works on the driver makes a new image with every build.
fn forget_old(dir: &Path, name: &str, current: &Path) {
    const KEEP: usize = 3;
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut old: Vec<_> = entries
        .flatten()
        .filter(|e| {
            e.file_name()
                .to_string_lossy()
                .starts_with(&format!("{name}-"))
                && e.path() != current
        })
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(KEEP - 1) {
        // Another run may have removed it already.
        let _ = fs::remove_file(path);
    }
}

/// The `newc` format: Documentation/driver-api/early-userspace/buffer-format.rst.
struct Cpio<W: Write> {
    out: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "too large for this format");
        let size = u32::try_from(data.len()).map_err(too_long)?;
        let name_size = u32::try_from(path.len() + 1).map_err(too_long)?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        self.inode += 1;
        // inode mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0,
        ];
        let header: String = fields.iter().map(|f| format!("{f:08x}")).collect();
        self.put(b"070701")?;
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad(4)?;
        self.put(data)?;
        self.pad(4)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.pad(512)?;
        self.out.flush()
    }

    fn put(&mut self, data: &[u8]) -> io::Result<()> {
        self.written += data.len() as u64;
        self.out.write_all(data)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        while !self.written.is_multiple_of(to) {
            self.put(&[0])?;
        }
        Ok(())
    }
}

/// What goes into L2 beside busybox.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    /// The driver and its test modules.
    pub modules: Vec<PathBuf>,
    /// kselftest's installed tree.
    pub kselftest: Option<PathBuf>,
    /// The kernel into which kexec and a crash lead.
    pub second_kernel: Option<PathBuf>,
}

const BUSYBOX: &str = "/bin/busybox";
const MOUNT_POINTS: [&str; 5] = ["proc", "sys", "dev", "tmp", "root"];

/// Where in L2 the modules are.
pub const MODULES: &str = "lib/modules";
/// Where in L2 the selftests are.
pub const KSELFTEST: &str = "opt/kselftest";

fn busybox(image: &mut Image) -> Result<()> {
    let path = Path::new(BUSYBOX);
    if !path.exists() {
        bail!("no {BUSYBOX} on this machine: scripts/bootstrap installs busybox-static");
    }
    if is_dynamic(path)? {
        bail!(
            "{BUSYBOX} is linked dynamically and cannot run in a guest: scripts/bootstrap installs busybox-static"
        );
    }
    image.file("bin/busybox", path)?;
    image.symlink("bin/sh", "busybox");
    for dir in MOUNT_POINTS {
        image.dir(dir);
    }
    Ok(())
}

/// True if the ELF file asks for an interpreter.
fn is_dynamic(path: &Path) -> Result<bool> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let u16_at = |at: usize| {
        data.get(at..at + 2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
    };
    let u64_at = |at: usize| {
        data.get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_le_bytes)
    };
    if data.get(..5) != Some(b"\x7fELF\x02") {
        return Ok(false);
    }
    let (Some(offset), Some(size), Some(count)) = (u64_at(32), u16_at(54), u16_at(56)) else {
        bail!("{} is a broken ELF file", path.display());
    };
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    Ok((0..usize::from(count)).any(|i| {
        let at = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .saturating_add(i * usize::from(size));
        data.get(at..at.saturating_add(4)) == Some(&PT_INTERP)
    }))
}

/// The image of the guest under test.
pub fn l2(dir: &Path, guest: &Path, payload: &Payload) -> Result<PathBuf> {
    guest_image(dir, guest, payload)?.build(dir, "l2")
}

fn guest_image(dir: &Path, guest: &Path, payload: &Payload) -> Result<Image> {
    let mut image = Image::default();
    busybox(&mut image)?;
    for (to, from) in [("init", "l2-init"), ("usr/bin/timeout", "timeout")] {
        image.file(to, &guest.join(from))?;
    }
    for name in ["demo", "bench", "shell", "second", "migrate"] {
        image.file(&format!("rig/{name}"), &guest.join(name))?;
    }
    for module in &payload.modules {
        let name = module
            .file_name()
            .context("a module without a name")?
            .to_string_lossy();
        image.file(&format!("{MODULES}/{name}"), module)?;
    }
    if let Some(tree) = &payload.kselftest {
        image.tree(KSELFTEST, tree)?;
        if let Some(kernel) = &payload.second_kernel {
            image.file("boot/bzImage", kernel)?;
            image.file("boot/initrd", &second(dir, guest, tree)?)?;
        }
    }
    Ok(image)
}

/// The image of the guest under test that is itself a host, of the same guest.
pub fn nested(
    dir: &Path,
    guest: &Path,
    artifacts: &Artifacts,
    payload: &Payload,
) -> Result<PathBuf> {
    let mut image = guest_image(dir, guest, payload)?;
    let inside = Payload {
        second_kernel: None,
        ..payload.clone()
    };
    host(&mut image, artifacts, &l2(dir, guest, &inside)?)?;
    let args = guest_args(
        Task::NestedGuest,
        Flavour::KvmAdopt,
        "/l2/bzImage",
        "/l2/initramfs",
        "/usr/share/qemu",
    );
    image.script("rig/nested", nested_launcher(&args));
    image.build(dir, "nested")
}

/// Starts the guest's guest: with its memory in one file, its console in another, more words on its kernel's
/// command line, and by the name of the interface that it finds its clock by.
fn nested_launcher(args: &[String]) -> String {
    let mut words: Vec<String> = args.iter().map(|a| quote(a)).collect();
    let after = |option: &str| args.iter().position(|a| a == option).map(|at| at + 1);
    for (option, more) in [("-append", "\" $3\""), ("-cpu", "\"$interface\"")] {
        if let Some(at) = after(option) {
            words[at] += more;
        }
    }
    let size = after("-m").map_or("", |at| args[at].as_str());
    format!(
        "#!/bin/sh\n\
         case $4 in\n\
         kvm) interface= ;;\n\
         hyperv) interface={HYPERV_CLOCK} ;;\n\
         *) echo \"$0: expected kvm or hyperv, got '$4'\" >&2; exit 2 ;;\n\
         esac\n\
         exec qemu-system-x86_64 {} \\\n\
         \t-object memory-backend-file,id=ram,size={size}M,share=on,mem-path=\"$1\" \\\n\
         \t-name l2,debug-threads=on -machine memory-backend=ram \\\n\
         \t-chardev file,id=console,path=\"$2\" -serial chardev:console\n",
        words.join(" ")
    )
}

/// The image of the second kernel in the same guest: what looks for what the first one left.
fn second(dir: &Path, guest: &Path, kselftest: &Path) -> Result<PathBuf> {
    let mut image = Image::default();
    busybox(&mut image)?;
    image.file("init", &guest.join("l2-init"))?;
    image.file(
        &format!("{KSELFTEST}/paraclock/msr_clear"),
        &kselftest.join("paraclock/msr_clear"),
    )?;
    image.build(dir, "second")
}

/// The image of the host: a QEMU with all that it needs, and L2.
pub fn l1(dir: &Path, guest: &Path, artifacts: &Artifacts, l2_image: &Path) -> Result<PathBuf> {
    let mut image = Image::default();
    busybox(&mut image)?;
    image.file("init", &guest.join("l1-init"))?;
    host(&mut image, artifacts, l2_image)?;
    let tasks = Task::ALL.iter().copied().filter(|t| !t.is_nested());
    for task in tasks {
        for &flavour in Flavour::all().iter().filter(|f| f.test_host().is_none()) {
            let mut args = guest_args(
                task,
                flavour,
                "/l2/bzImage",
                "/l2/initramfs",
                "/usr/share/qemu",
            );
            args.extend(
                [
                    "-chardev",
                    "pipe,id=console,path=/tmp/console",
                    "-serial",
                    "chardev:console",
                ]
                .map(String::from),
            );
            let mut words: Vec<String> = args.iter().map(|a| quote(a)).collect();
            // What L1 was told to tell L2.
            if let Some(at) = args.iter().position(|a| a == "-append") {
                words[at + 1] += "\"${RIG_MORE:+ $RIG_MORE}\"";
            }
            let text = format!("#!/bin/sh\nexec qemu-system-x86_64 {}\n", words.join(" "));
            image.script(&format!("rig/{task}/{flavour}"), text);
        }
    }
    image.build(dir, "l1")
}

/// A QEMU, and what it boots.
fn host(image: &mut Image, artifacts: &Artifacts, l2_image: &Path) -> Result<()> {
    let qemu = inner_qemu(artifacts)?;
    image.file("usr/bin/qemu-system-x86_64", &qemu.program)?;
    for (soname, path) in &qemu.libraries {
        image.file(
            &format!(
                "{}/{soname}",
                if soname.starts_with("ld-linux") {
                    "lib64"
                } else {
                    "lib"
                }
            ),
            path,
        )?;
    }
    for path in &qemu.firmware {
        let name = path
            .file_name()
            .context("firmware without a name")?
            .to_string_lossy();
        image.file(&format!("usr/share/qemu/{name}"), path)?;
    }
    image.file("l2/bzImage", &artifacts.kernel.bzimage)?;
    image.file("l2/initramfs", l2_image)?;
    Ok(())
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Debian's QEMU, unpacked and not installed.
pub struct InnerQemu {
    pub program: PathBuf,
    /// Name to be found by, and file.
    pub libraries: Vec<(String, PathBuf)>,
    pub firmware: Vec<PathBuf>,
    /// Started as this, it runs on this machine, too.
    pub command: Vec<PathBuf>,
    pub library_path: String,
}

/// What a PC machine that boots `-kernel` reads.
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"];

pub fn inner_qemu(artifacts: &Artifacts) -> Result<InnerQemu> {
    let tree = &artifacts.inner_tree;
    let program = tree.join("usr/bin/qemu-system-x86_64");
    let loader = [
        "lib64/ld-linux-x86-64.so.2",
        "usr/lib64/ld-linux-x86-64.so.2",
    ]
    .iter()
    .map(|p| tree.join(p))
    .find(|p| p.exists())
    .unwrap_or_else(|| PathBuf::from("/lib64/ld-linux-x86-64.so.2"));
    let dirs: Vec<String> = [
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/pulseaudio",
        "lib",
        "usr/lib",
    ]
    .iter()
    .map(|d| tree.join(d))
    .filter(|d| d.is_dir())
    .map(|d| d.display().to_string())
    .collect();
    let library_path = dirs.join(":");
    let mut list = Command::new(&loader);
    if !library_path.is_empty() {
        list.arg("--library-path").arg(&library_path);
    }
    let out = list
        .arg("--list")
        .arg(&program)
        .output()
        .with_context(|| format!("cannot run the dynamic loader {}", loader.display()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let missing: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("not found"))
        .map(str::trim)
        .collect();
    if !out.status.success() || !missing.is_empty() {
        bail!(
            "the QEMU for L1, {}, lacks libraries ({} {}); remove {} to have it set up again",
            program.display(),
            missing.join(", "),
            String::from_utf8_lossy(&out.stderr).trim(),
            tree.display()
        );
    }
    let mut libraries: Vec<(String, PathBuf)> = text.lines().filter_map(listed_library).collect();
    libraries.push(("ld-linux-x86-64.so.2".to_owned(), loader.clone()));
    let mut firmware = Vec::new();
    for name in FIRMWARE {
        let found = artifacts
            .firmware
            .iter()
            .map(|d| d.join(name))
            .find(|p| p.is_file())
            .with_context(|| {
                format!(
                    "no {name} below {}; remove that directory to have it set up again",
                    tree.display()
                )
            })?;
        firmware.push(found);
    }
    let command = vec![loader, program.clone()];
    Ok(InnerQemu {
        program,
        libraries,
        firmware,
        command,
        library_path,
    })
}

/// `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)`
fn listed_library(line: &str) -> Option<(String, PathBuf)> {
    let (name, rest) = line.trim().split_once(" => ")?;
    let path = rest.split(" (0x").next()?.trim();
    let name = Path::new(name).file_name()?.to_string_lossy().into_owned();
    (path.starts_with('/') && !name.starts_with("ld-linux")).then(|| (name, PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = Image::default();
        image.script("a/b/run", "#!/bin/sh\necho hi\n");
        image.script("a/odd", "12345");
        image.symlink("a/link", "odd");
        image.dir("empty");
        let path = image.build(&dir.path().join("images"), "t").unwrap();
        let out = Command::new("cpio")
            .arg("-itv")
            .stdin(fs::File::open(&path).unwrap())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        for want in [
            "drwxr-xr-x",
            "-rwxr-xr-x",
            "a/b/run",
            "a/link -> odd",
            "empty",
        ] {
            assert!(text.contains(want), "{want} in\n{text}");
        }
        let unpack = Command::new("cpio")
            .args(["-id", "--quiet"])
            .current_dir(dir.path())
            .stdin(fs::File::open(&path).unwrap())
            .status()
            .unwrap();
        assert!(unpack.success());
        assert_eq!(
            fs::read_to_string(dir.path().join("a/link")).unwrap(),
            "12345"
        );
    }

    #[test]
    fn named_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let build = |text: &str| {
            let mut image = Image::default();
            image.script("a", text);
            image.build(dir.path(), "t").unwrap()
        };
        let first = build("1");
        assert_eq!(first, build("1"));
        assert_ne!(first, build("2"));
        for i in 0..10 {
            assert!(build(&format!("x{i}")).exists());
        }
        assert!(
            fs::read_dir(dir.path()).unwrap().count() <= 3,
            "old ones are removed"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Image::default()
            .file("x", Path::new("/nonexistent/y"))
            .unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent/y"));
    }

    #[test]
    fn quoting() {
        assert_eq!(quote("a b'c"), r"'a b'\''c'");
    }

    #[test]
    fn this_program_is_dynamic() {
        assert!(is_dynamic(&std::env::current_exe().unwrap()).unwrap());
    }
}
