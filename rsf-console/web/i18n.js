// The page's words in English and Chinese.

const EN = {
  overview: "Overview", policies: "Policies", audit: "Audit", policy: "Policy", sections: "Sections", skip: "Skip to content",
  language: "Language", theme: "Switch between light and dark", logout: "Sign out", namespace: "Namespace",
  login: "Sign in", loginHelp: "Enter the console's token. “rsf dev” prints a link that signs you in; “rsf console” was started with a token.",
  token: "Token", open: "Open console", wrongToken: "This token is not the console's.",
  loading: "Loading…", unreachable: "The console does not answer. What you see may be old; trying again every second.",
  storeDown: "The policy store cannot be reached ({pending} waiting): {why}", directoryDown: "The directory cannot be read: {why}",
  services: "Services", service: "Service", instances: "Instances", instance: "Instance", method: "Method",
  callsPerSecond: "Calls/s", failuresPerSecond: "Failures/s", lastMinutes: "Last 2 minutes", lastFiveMinutes: "Calls/s, last 5 minutes",
  draining: "draining", noServices: "No service is registered yet. Start a provider, or try a whole fleet with",
  sameAs: "The command line does the same:", silent: "{count} instances do not answer on their admin port.", leftOut: "{count} instances are beyond the bound of 2 000.",
  zone: "Zone", state: "State", weight: "Weight", action: "Action", revision: "Revision", timeouts: "Timeouts",
  timeoutsHelp: "A change is in force on every instance within a second, without a restart. Empty: as inherited.",
  timeoutMs: "Timeout, ms", wholeService: "Whole service", inherited: "inherited", enable: "Enable", disable: "Disable",
  state_up: "up", state_draining: "draining", state_disabled: "disabled", state_idle: "weight 0", state_unknown: "unknown", state_deregistered: "left",
  removed: "Left recently", cause: "Cause", when: "When", cause_expired: "lease expired", cause_deregistered: "deregistered", cause_evicted: "evicted", cause_unknown: "unknown",
  unpublished: "Not published yet", publish: "Publish", discard: "Discard", comment: "Comment", commentHint: "Why? (optional, goes to the audit log)",
  copy: "Copy", copied: "Copied", selected: "Selected",
  whoRuns: "Who runs which revision", runs: "{current} of {all} instances run revision {revision}.",
  running_current: "current", running_older: "older", running_refused: "refused", running_waiting: "waiting",
  scope: "Scope", status: "Status", author: "Author", document: "Document (JSON)", diff: "Difference to what is in force", noChange: "No difference.", notValid: "Not valid yet.",
  status_intent: "waiting", status_published: "published", status_refused: "refused",
  openScope: "Open a scope", openEditor: "Open", scopeHelp: "fleet, application/<name> or service/<package.Service>",
  policiesHelp: "Later wins: built-in < fleet < provider application < .proto option < service < method < consumer.",
  noPolicies: "No policy has been published. Everything runs with built-in values.", noPolicyYet: "No policy yet: built-in values and wider scopes hold.",
  revisionBy: "Revision {revision} by {author}, {when}", delete: "Delete policy", confirmDelete: "Delete the policy of {scope}? Wider scopes and built-in values hold from then on.\n\nThe command line does the same: rsf policy delete {scope}",
  changedMeanwhile: "Revision {revision} by {author} was published meanwhile. Publishing yours would be refused.", loadIt: "Load it, drop my edit",
  removedLine: "removed: ", addedLine: "added: ", history: "History", show: "Show", deleted: "Deleted.", rollbackTo: "Roll back to revision {revision}",
  changeOf: "Revision {revision} against {older}", older: "Older entries", noAudit: "Nothing was changed yet.",
  auditHelp: "Every change and every step it took. Entries are never altered or removed.",
};

const ZH = {
  overview: "总览", policies: "策略", audit: "审计", policy: "策略", sections: "栏目", skip: "跳到正文",
  language: "语言", theme: "切换浅色/深色", logout: "退出", namespace: "命名空间",
  login: "登录", loginHelp: "请输入控制台令牌。“rsf dev”会打印可直接登录的链接；“rsf console”启动时已指定令牌。",
  token: "令牌", open: "进入控制台", wrongToken: "令牌不正确。",
  loading: "加载中…", unreachable: "控制台没有响应。当前数据可能已过期，每秒自动重试。",
  storeDown: "无法连接策略存储（{pending} 个待发布）：{why}", directoryDown: "无法读取服务目录：{why}",
  services: "服务", service: "服务", instances: "实例", instance: "实例", method: "方法",
  callsPerSecond: "调用/秒", failuresPerSecond: "失败/秒", lastMinutes: "最近 2 分钟", lastFiveMinutes: "调用/秒，最近 5 分钟",
  draining: "下线中", noServices: "还没有服务注册。启动一个提供者，或用下面的命令试用一整套",
  sameAs: "等价的命令行：", silent: "{count} 个实例的管理端口没有响应。", leftOut: "{count} 个实例超出 2 000 的上限。",
  zone: "机房", state: "状态", weight: "权重", action: "操作", revision: "版本", timeouts: "超时",
  timeoutsHelp: "修改在一秒内对所有实例生效，无需重启。留空表示继承。",
  timeoutMs: "超时（毫秒）", wholeService: "整个服务", inherited: "继承", enable: "启用", disable: "停用",
  state_up: "正常", state_draining: "下线中", state_disabled: "已停用", state_idle: "权重为 0", state_unknown: "未知", state_deregistered: "已离开",
  removed: "最近离开", cause: "原因", when: "时间", cause_expired: "租约过期", cause_deregistered: "主动注销", cause_evicted: "被驱逐", cause_unknown: "未知",
  unpublished: "尚未发布", publish: "发布", discard: "放弃", comment: "说明", commentHint: "为什么修改？（可选，写入审计日志）",
  copy: "复制", copied: "已复制", selected: "已选中",
  whoRuns: "各实例运行的版本", runs: "{all} 个实例中有 {current} 个运行版本 {revision}。",
  running_current: "最新", running_older: "较旧", running_refused: "已拒绝", running_waiting: "等待中",
  scope: "范围", status: "状态", author: "作者", document: "文档（JSON）", diff: "与当前生效内容的差异", noChange: "没有差异。", notValid: "尚未通过校验。",
  status_intent: "待发布", status_published: "已发布", status_refused: "已拒绝",
  openScope: "打开范围", openEditor: "打开", scopeHelp: "fleet、application/<名称> 或 service/<包名.服务名>",
  policiesHelp: "后者优先：内置值 < 全局 < 提供方应用 < .proto 选项 < 服务 < 方法 < 消费方。",
  noPolicies: "尚未发布任何策略，全部使用内置值。", noPolicyYet: "尚无策略：使用内置值和更大范围的策略。",
  revisionBy: "版本 {revision}，{author}，{when}", delete: "删除策略", confirmDelete: "删除 {scope} 的策略？之后将使用更大范围的策略和内置值。\n\n等价的命令行：rsf policy delete {scope}",
  changedMeanwhile: "{author} 已发布版本 {revision}，现在发布您的修改会被拒绝。", loadIt: "载入新版本并放弃我的修改",
  removedLine: "删除：", addedLine: "新增：", history: "历史", show: "查看", deleted: "已删除。", rollbackTo: "回滚到版本 {revision}",
  changeOf: "版本 {revision} 与 {older} 的差异", older: "更早的记录", noAudit: "还没有任何修改。",
  auditHelp: "记录每次修改及其每一步，条目不会被更改或删除。",
};

export const languages = [["en", "English"], ["zh", "中文"]];
const words = { en: EN, zh: ZH };
let current = localStorage.getItem("rsf.language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!words[current]) current = "en";

export const language = () => current;

export function setLanguage(code) {
  current = words[code] ? code : "en";
  localStorage.setItem("rsf.language", current);
}

/** The words under a key, with `{name}` replaced. */
export function t(key, values = {}) {
  const text = words[current][key] ?? EN[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
