//! Style and script of the report. Colours are Okabe and Ito's, told apart by colour-blind eyes too; shapes
//! say the same.

/// The style sheet.
pub const CSS: &str = r#"
:root{color-scheme:light dark;--page:#fbfaf7;--card:#fff;--ink:#1d2330;--dim:#5c6676;--line:#d9dce3;--code:#f3f2ee;
--inside:#c84a00;--held:#0067a5;--beside:#8a8f99;--clear:#b9bdc6;--window:#007a59;--breach:#c84a00;--wait:#a06a00;
--good:#00724f;--bad:#b83a00;--unsure:#8a5a00;--heat:#0072b2}
@media (prefers-color-scheme:dark){:root{--page:#14171d;--card:#1b2028;--ink:#e4e7ec;--dim:#98a2b3;--line:#333b48;--code:#12151a;
--inside:#ff8a45;--held:#62b6f0;--beside:#8b94a3;--clear:#5b6473;--window:#2fb992;--breach:#ff8a45;--wait:#e0b050;
--good:#3ccf9f;--bad:#ff8a45;--unsure:#e0b050;--heat:#3b9be0}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 20px 64px}
h1{font-size:24px;margin:0 0 4px;line-height:1.25}h2{font-size:18px;margin:40px 0 12px}h3{font-size:16px;margin:0 0 6px}
p{margin:6px 0 10px;max-width:78ch;overflow-wrap:anywhere}
code,pre,.mono{font:12.5px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
.dim{color:var(--dim)}.nums{display:flex;flex-wrap:wrap;gap:8px 28px;margin:14px 0 0;padding:0;list-style:none}
.nums b{display:block;font-size:19px;font-variant-numeric:tabular-nums;font-weight:600}.nums span{color:var(--dim);font-size:13px}
.verdict{display:inline-block;padding:2px 12px;border-radius:4px;color:var(--card);font-weight:600;margin-right:10px}
.clean{background:var(--good)}.findings{background:var(--bad)}.inconclusive{background:var(--unsure)}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:18px 20px;margin:0 0 18px}
.tag{display:inline-block;border:1px solid currentColor;border-radius:4px;padding:0 7px;font-size:12.5px;margin-right:6px;vertical-align:1px}
.observed,.proven{color:var(--bad)}.predicted{color:var(--unsure)}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:18px;margin-top:14px}
.sides>div{min-width:0}.sides h4{margin:0 0 4px;font-size:14px}
pre{background:var(--code);border-radius:6px;padding:10px 12px;overflow-x:auto;margin:6px 0 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:10px 0}dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
th{text-align:right;color:var(--dim);font-weight:500;padding:4px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th.l,td.l{text-align:left}
td.heat{background:color-mix(in srgb,var(--heat) calc(var(--h)*1%),transparent);min-width:88px}
td.never{background:repeating-linear-gradient(45deg,transparent 0 5px,var(--line) 5px 6px);color:var(--dim)}
td small{color:var(--dim);display:block}
figure{margin:14px 0 0}figcaption{color:var(--dim);font-size:13px;margin-top:6px}
svg.picture{display:block;width:100%;min-width:720px;height:auto}
svg text{fill:var(--dim);font:11px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}
svg .name{fill:var(--ink)}svg .axis,svg .grid{stroke:var(--line);stroke-width:1}svg .frame{fill:none;stroke:var(--line)}
svg .window{fill:var(--window);fill-opacity:.16;stroke:var(--window);stroke-opacity:.8}
svg .window.breached{fill:var(--breach);fill-opacity:.15;stroke:var(--breach)}
svg .clear{stroke:var(--clear);fill:var(--clear)}svg .beside{stroke:var(--beside);fill:var(--beside)}
svg .held-off{stroke:var(--held);fill:var(--held)}svg .inside{stroke:var(--inside);fill:var(--inside)}
svg .hollow{fill:var(--card)}
svg .wait{stroke-dasharray:3 3}
svg .op{fill:var(--ink);fill-opacity:.14}svg .shared{fill:var(--held);fill-opacity:.55}svg .excl{fill:var(--window);fill-opacity:.75}
svg .waits{fill:none;stroke:var(--wait);stroke-dasharray:3 2}
svg .act{stroke:var(--breach);stroke-width:1.5}
svg .bar{fill:var(--held)}svg .bar.hold{fill:var(--window)}
svg .node{fill:var(--card);stroke:var(--dim)}svg .edge{stroke:var(--dim);fill:none}svg .edge.bad{stroke:var(--bad);stroke-width:2}
svg .head{fill:var(--dim)}svg .head.bad{fill:var(--bad)}svg .node.bad{stroke:var(--bad);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--dim);font-size:13px;margin-top:8px}.legend svg{vertical-align:-3px;margin-right:5px}
details>summary{cursor:pointer;color:var(--dim);margin:8px 0}
.filter{display:none;margin:0 0 12px}.js .filter{display:block}
.filter input{font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:6px;padding:5px 10px;width:min(340px,100%)}
[hidden]{display:none!important}
@media (max-width:720px){main{padding:16px 12px 48px}.sides{grid-template-columns:1fr}.card{padding:14px 12px}dl{grid-template-columns:1fr}dt{margin-top:6px}}
@media print{.filter{display:none!important}.card{break-inside:avoid}}
"#;

/// The script: a filter over whatever is marked as filterable.
pub const SCRIPT: &str = r#"
document.documentElement.classList.add('js');
for (const input of document.querySelectorAll('.filter input')) {
  const all = [...document.querySelectorAll(input.dataset.of)];
  input.addEventListener('input', () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const one of all) {
      const text = one.textContent.toLowerCase();
      one.hidden = !words.every(word => text.includes(word));
    }
  });
}
"#;
