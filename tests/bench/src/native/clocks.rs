// SPDX-License-Identifier: GPL-2.0

//! What is measured: the vDSO in each mode, the kernel's read functions and the driver's, each with a
//! page of its own. Each is held against what its page says before it is measured.

use super::driver;
use super::image::{Features, Image, constant};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::c_void;
use std::fs;
use std::mem::transmute;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Reads a clock from its page.
pub type Read = unsafe extern "C" fn(page: *const c_void) -> u64;
/// `clock_gettime()`
pub type ClockGettime =
    unsafe extern "C" fn(id: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int;

type FillTimePage = unsafe extern "C" fn(*mut c_void, u32, u64, u32, u32, u64);
type FillPvclock = unsafe extern "C" fn(*mut c_void, u64, u64, u32, i32);
type FillHvclock = unsafe extern "C" fn(*mut c_void, u64, u64);

/// How a clock is to be called.
#[derive(Clone, Copy)]
pub enum Call {
    Read(Read, *const c_void),
    Vdso(ClockGettime, libc::clockid_t),
}

/// One thing that is measured.
pub struct Clock {
    /// As in a figure's.
    pub name: &'static str,
    pub clock: &'static str,
    pub mode: &'static str,
    pub host: &'static str,
    pub call: Call,
}

/// All of it. The clocks call into the images.
pub struct Clocks {
    pub all: Vec<Clock>,
    _images: Vec<Image>,
}

/// A page for the readers of the kernel's side.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A zeroed page that is never freed: whoever reads it keeps it for as long as the process lives.
fn page() -> *mut c_void {
    std::ptr::from_mut(Box::leak(Box::new(Page([0; 4096])))).cast()
}

/// Where the kernel is.
pub struct Kernel<'a> {
    /// Its build directory.
    pub build: &'a Path,
    /// For what is compiled.
    pub work: &'a Path,
    /// The C file.
    pub program: &'a Path,
}

const VDSO: &str = "arch/x86/entry/vdso/vdso64";

/// Scale of a TSC: ns a cycle is `mul * 2^shift / 2^32`, as KVM normalises it.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub hz: u64,
    pub mul: u32,
    pub shift: i32,
    /// 100 ns a cycle, in units of 2^-64.
    pub hv: u64,
}

impl Scale {
    pub fn new(hz: u64) -> Result<Self> {
        ensure!(
            (100_000_000..20_000_000_000).contains(&hz),
            "a TSC of {hz} Hz cannot be"
        );
        let mut shift = 0;
        let mut mul = (1_000_000_000_u128 << 32) / u128::from(hz);
        while mul >= 1 << 32 {
            mul >>= 1;
            shift += 1;
        }
        while mul < 1 << 31 {
            shift -= 1;
            mul = (1_000_000_000_u128 << (32 - shift)) / u128::from(hz);
        }
        Ok(Self {
            hz,
            mul: u32::try_from(mul)?,
            shift,
            hv: u64::try_from((10_000_000_u128 << 64) / u128::from(hz))?,
        })
    }

    fn pvclock_ns(&self, cycles: u64) -> u64 {
        let shifted = if self.shift < 0 {
            cycles >> -self.shift
        } else {
            cycles << self.shift
        };
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }

    fn hv_cycles(&self, cycles: u64, fraction: u32) -> u64 {
        ((u128::from(cycles) * u128::from(self.hv)) >> (64 - fraction)) as u64
    }
}

/// Of the vDSO's clock: the shift, and the ns below the seconds at the start.
const SHIFT: u32 = 22;
const SUB: u64 = 123_456_789;

impl Kernel<'_> {
    /// Compiles the C file by the command of the kernel's own vDSO, which `.vclock_gettime.o.cmd` holds.
    fn compile(&self) -> Result<PathBuf> {
        let record = self.build.join(VDSO).join(".vclock_gettime.o.cmd");
        let text = fs::read_to_string(&record)
            .with_context(|| format!("cannot read {}; is the kernel built?", record.display()))?;
        let command = compile_command(&text)
            .with_context(|| format!("cannot make sense of {}", record.display()))?;
        fs::create_dir_all(self.work)
            .with_context(|| format!("cannot create {}", self.work.display()))?;
        let work = self
            .work
            .canonicalize()
            .context("the work directory is gone")?;
        let program = self
            .program
            .canonicalize()
            .with_context(|| format!("no {}", self.program.display()))?;
        let (object, library) = (work.join("clocks.o"), work.join("clocks.so"));
        let quoted =
            |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        // As the kernel is compiled, not as the vDSO: without frame pointers, which that has for its
        // debuggers.
        let command = format!(
            "{command} -fomit-frame-pointer -c -o {} {}",
            quoted(&object),
            quoted(&program)
        );
        self.run(Command::new("sh").arg("-c").arg(&command))?;
        self.run(
            Command::new("ld.lld-19")
                .args([
                    "-shared",
                    "-Bsymbolic",
                    "--no-undefined",
                    "-z",
                    "noexecstack",
                ])
                .args(["-z", "max-page-size=4096", "-z", "norelro", "-o"])
                .arg(&library)
                .arg(&object),
        )?;
        Ok(library)
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let out = command
            .current_dir(self.build)
            .output()
            .with_context(|| format!("cannot run `{name}`; scripts/bootstrap installs it"))?;
        if !out.status.success() {
            bail!(
                "`{name}` failed on {}: {}",
                self.program.display(),
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(())
    }

    /// Maps everything, fills the pages, and checks what the clocks say.
    pub fn clocks(&self, scale: Scale) -> Result<Clocks> {
        let library = self.compile()?;
        let mut features = None;
        let lib = Image::map(&library, &library, |elf, file| {
            let found = Features {
                lfence_rdtsc: constant(elf, file, "bench_feature_lfence_rdtsc")?,
                rdtscp: constant(elf, file, "bench_feature_rdtscp")?,
                rdpid: constant(elf, file, "bench_feature_rdpid")?,
            };
            ensure!(
                constant(elf, file, "bench_size_of_alternative")? == 14,
                "the kernel's table of alternatives has another layout than is known here"
            );
            features = Some(found);
            Ok(found)
        })?;
        let features = features.context("no features")?;
        // SAFETY: These are the types of the functions in the C file, in the image that `lib` keeps.
        let (fill_time, fill_pvclock, fill_hvclock, rdtsc, c_pvclock, c_hvclock) = unsafe {
            (
                transmute::<*mut c_void, FillTimePage>(lib.symbol("bench_fill_time_page")?),
                transmute::<*mut c_void, FillPvclock>(lib.symbol("bench_fill_pvclock")?),
                transmute::<*mut c_void, FillHvclock>(lib.symbol("bench_fill_hvclock")?),
                transmute::<*mut c_void, Read>(lib.symbol("bench_rdtsc_ordered")?),
                transmute::<*mut c_void, Read>(lib.symbol("bench_read_pvclock")?),
                transmute::<*mut c_void, Read>(lib.symbol("bench_read_hvclock")?),
            )
        };
        let fraction = lib.constant("bench_hv_fraction_bits")?;
        let now = || {
            // SAFETY: It uses no page.
            unsafe { rdtsc(std::ptr::null()) }
        };
        let start = now();
        let vdso_dir = self.build.join(VDSO);
        let mut clocks = Clocks {
            all: Vec::new(),
            _images: Vec::new(),
        };
        let (pvclock, hvclock) = (page(), page());
        // SAFETY: The pages are whole, zeroed pages, and nobody reads them yet.
        unsafe {
            fill_pvclock(pvclock, start, 0, scale.mul, scale.shift);
            fill_hvclock(hvclock, scale.hv, 0);
        }
        clocks.add(
            "read",
            "rdtscp",
            "-",
            "-",
            Call::Read(rdtsc, std::ptr::null()),
        );
        clocks.add(
            "read",
            "paraclock",
            "tsc",
            "-",
            Call::Read(driver::read_tsc, std::ptr::null()),
        );
        clocks.add(
            "read",
            "kvm-clock",
            "-",
            "kvm",
            Call::Read(c_pvclock, pvclock),
        );
        // SAFETY: Pages of Clocks are never freed.
        let kvm = Box::leak(Box::new(unsafe { driver::kvm(pvclock) }));
        clocks.add(
            "read",
            "paraclock",
            "page",
            "kvm",
            Call::Read(driver::read_kvm, std::ptr::from_ref(kvm).cast()),
        );
        clocks.add(
            "read",
            "hyperv_clocksource_tsc_page",
            "-",
            "hyperv",
            Call::Read(c_hvclock, hvclock),
        );
        // SAFETY: As above.
        let hyperv = Box::leak(Box::new(unsafe { driver::hyperv(hvclock) }));
        clocks.add(
            "read",
            "paraclock",
            "page",
            "hyperv",
            Call::Read(driver::read_hyperv, std::ptr::from_ref(hyperv).cast()),
        );

        // A cycle in units of 2^-SHIFT ns.
        let ns = 1_u32 << SHIFT;
        let tsc_mult = u32::try_from((1_000_000_000_u128 << SHIFT) / u128::from(scale.hz))?;
        let hv_mult = u32::try_from((100_u64 << SHIFT) >> fraction)?;
        let hv_now = |tsc| scale.hv_cycles(tsc, fraction);
        let pv_now = |tsc: u64| scale.pvclock_ns(tsc.wrapping_sub(start));
        let mut vdsos = Vec::new();
        for (mode, symbol, last, mult) in [
            ("tsc", "bench_mode_tsc", start, tsc_mult),
            ("pvclock", "bench_mode_pvclock", pv_now(start), ns),
            ("hvclock", "bench_mode_hvclock", hv_now(start), hv_mult),
        ] {
            let image = Image::map(
                &vdso_dir.join("vdso64.so"),
                &vdso_dir.join("vdso64.so.dbg"),
                |_, _| Ok(features),
            )?;
            // SAFETY: The vDSO has these pages there, zeroed, and nobody reads them yet; and the
            // function is of that type.
            let vdso = unsafe {
                fill_time(
                    image.symbol("vdso_u_time_data")?,
                    lib.constant(symbol)?,
                    last,
                    mult,
                    SHIFT,
                    SUB,
                );
                fill_pvclock(
                    image.symbol("pvclock_page")?,
                    start,
                    0,
                    scale.mul,
                    scale.shift,
                );
                fill_hvclock(image.symbol("hvclock_page")?, scale.hv, 0);
                transmute::<*mut c_void, ClockGettime>(image.symbol("__vdso_clock_gettime")?)
            };
            clocks.add(
                "vdso.monotonic",
                "vdso",
                mode,
                "-",
                Call::Vdso(vdso, libc::CLOCK_MONOTONIC),
            );
            clocks._images.push(image);
            vdsos.push((mode, vdso, last, mult));
        }

        // What the pages say, by arithmetic of 128 bits.
        for clock in clocks.all.iter().filter(|c| c.name == "read") {
            let expected = |tsc: u64| match clock.host {
                "kvm" => pv_now(tsc),
                "hyperv" => hv_now(tsc),
                _ => tsc,
            };
            verify(clock, now, expected)?;
        }
        for (mode, vdso, last, mult) in vdsos {
            for id in [
                libc::CLOCK_REALTIME,
                libc::CLOCK_MONOTONIC,
                libc::CLOCK_BOOTTIME,
                libc::CLOCK_MONOTONIC_RAW,
            ] {
                let expected = |tsc: u64| {
                    let cycles = match mode {
                        "tsc" => tsc,
                        "pvclock" => pv_now(tsc),
                        _ => hv_now(tsc),
                    };
                    let delta = u128::from(cycles - last);
                    let ns = (delta * u128::from(mult) + (u128::from(SUB) << SHIFT)) >> SHIFT;
                    (1000 + id as u64) * 1_000_000_000 + ns as u64
                };
                let clock = Clock {
                    name: "vdso",
                    clock: "vdso",
                    mode,
                    host: "-",
                    call: Call::Vdso(vdso, id),
                };
                verify(&clock, now, expected)?;
            }
        }
        clocks._images.push(lib);
        Ok(clocks)
    }
}

impl Clocks {
    fn add(
        &mut self,
        name: &'static str,
        clock: &'static str,
        mode: &'static str,
        host: &'static str,
        call: Call,
    ) {
        self.all.push(Clock {
            name,
            clock,
            mode,
            host,
            call,
        });
    }
}

impl Clock {
    /// The clock's time, in its own unit; of the vDSO in ns.
    pub fn now(&self) -> Result<u64> {
        match self.call {
            // SAFETY: The page is the function's; see Kernel::clocks().
            Call::Read(read, page) => Ok(unsafe { read(page) }),
            Call::Vdso(clock_gettime, id) => {
                let mut time = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                // SAFETY: `time` is valid for a write.
                let error = unsafe { clock_gettime(id, &mut time) };
                ensure!(
                    error == 0,
                    "the vDSO in mode {} returned {error}",
                    self.mode
                );
                Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
            }
        }
    }
}

/// Holds a clock against what its page says: its time lies between that of two TSC readings around it.
fn verify(clock: &Clock, tsc: impl Fn() -> u64, expected: impl Fn(u64) -> u64) -> Result<()> {
    for _ in 0..1000 {
        let (before, time, after) = (tsc(), clock.now()?, tsc());
        let (from, to) = (expected(before), expected(after));
        ensure!(
            (from..=to).contains(&time),
            "{} {} {}: its page says {from} to {to}, and it says {time}",
            clock.name,
            clock.clock,
            clock.mode
        );
    }
    Ok(())
}

/// The compiler and its flags, of a record of Kbuild's.
fn compile_command(record: &str) -> Option<String> {
    let line = record.lines().find(|l| l.starts_with("savedcmd_"))?;
    let (_, command) = line.split_once(" := ")?;
    let (flags, _) = command.split_once(" -c -o ")?;
    let words: Vec<&str> = flags
        .split(' ')
        .filter(|w| !w.starts_with("-Wp,-MMD"))
        .collect();
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kbuilds_record() {
        let record = "savedcmd_a/b.o := clang-19 -Wp,-MMD,a/.b.o.d -Ix -D'K=\"a b\"' -c -o a/b.o ../a/b.c  \n\nsource_x := y\n";
        assert_eq!(
            compile_command(record).unwrap(),
            "clang-19 -Ix -D'K=\"a b\"'"
        );
        assert_eq!(compile_command("nothing"), None);
    }

    #[test]
    fn scales_are_those_of_the_tsc() {
        for hz in [
            800_000_000,
            1_000_000_000,
            2_100_000_000,
            2_600_000_000,
            5_000_000_000,
        ] {
            let scale = Scale::new(hz).unwrap();
            assert!(scale.mul >= 1 << 31, "{scale:?}");
            let second = scale.pvclock_ns(hz);
            assert!(second.abs_diff(1_000_000_000) <= 2, "{hz}: {second}");
            assert!(scale.hv_cycles(hz, 8).abs_diff(2_560_000_000) <= 1);
        }
        assert!(Scale::new(0).is_err());
    }
}
