package main

import (
	"fmt"
	"strings"

	"yaoju/daemon/status"
	"yaoju/protocol"
)

// level is what a finding means for the technician.
type level string

const (
	good level = "good" // nothing to do
	note level = "note" // worth knowing
	bad  level = "bad"  // something is to be done
)

func (l level) sign() string { return map[level]string{good: "✓", note: "!", bad: "✗"}[l] }

// The groups of findings, in the order in which they are told.
const (
	groupProgram  = "program"
	groupConfig   = "config"
	groupFolders  = "folders"
	groupKioskd   = "kioskd"
	groupParts    = "parts"
	groupPlugs    = "plugs"
	groupClock    = "clock"
	groupDisk     = "disk"
	groupComputer = "computer"
	groupUnits    = "units"
	groupDistrict = "district"
	groupLedger   = "ledger"
)

// group is a heading.
type group struct {
	id string
	protocol.Text
}

func groups() []group {
	return []group{
		{groupProgram, protocol.Text{ZH: "程序", EN: "Program"}},
		{groupConfig, protocol.Text{ZH: "配置", EN: "Configuration"}},
		{groupFolders, protocol.Text{ZH: "文件夹", EN: "Folders"}},
		{groupKioskd, protocol.Text{ZH: "运行", EN: "Running"}},
		{groupParts, protocol.Text{ZH: "部件", EN: "Parts"}},
		{groupPlugs, protocol.Text{ZH: "插着但未配置", EN: "Plugged in, not configured"}},
		{groupClock, protocol.Text{ZH: "时钟", EN: "Clock"}},
		{groupDisk, protocol.Text{ZH: "存储", EN: "Disk"}},
		{groupComputer, protocol.Text{ZH: "主机", EN: "Computer"}},
		{groupUnits, protocol.Text{ZH: "系统服务", EN: "Services"}},
		{groupDistrict, protocol.Text{ZH: "区平台", EN: "District"}},
		{groupLedger, protocol.Text{ZH: "账本", EN: "Ledger"}},
	}
}

// saying is one thing the doctor can say: {1} and so on stand for what differs. Where
// the level is bad, do begins with what to do.
type saying struct {
	group  string
	level  level
	zh, en string
	do     protocol.Text
}

// do is a short way to write what to do.
func do(zh, en string) protocol.Text { return protocol.Text{ZH: zh, EN: en} }

// sayings is all the doctor can say, by a code that never changes once released: the
// bundle and other programs go by it.
func sayings() map[string]saying {
	return map[string]saying{
		"program.version": {groupProgram, good, "yaoju {1}", "yaoju {1}", do("", "")},
		"program.differs": {groupProgram, note, "正在运行的 kioskd 是 {1}，yaoju 是 {2}", "the kioskd that runs is {1}, this yaoju is {2}", do("", "")},
		"update.current":  {groupProgram, good, "软件版本 {1}，上一版本 {2}", "software {1}, before it {2}", do("", "")},
		"update.trial":    {groupProgram, note, "版本 {1} 正在试运行，几分钟内自行确认或退回", "version {1} is on trial: within minutes it stays or goes back by itself", do("", "")},
		"update.waits":    {groupProgram, note, "更新在等待：{1}", "an update waits: {1}", do("", "")},
		"update.last":     {groupProgram, note, "上次更新：{1}", "last update: {1}", do("", "")},

		"config.good":   {groupConfig, good, "{1} 没有错误", "{1} has no mistakes", do("", "")},
		"config.absent": {groupConfig, bad, "没有配置文件 {1}", "there is no configuration {1}", do("把 /usr/share/yaoju/kioskd.toml 复制为 {1} 并填写", "copy /usr/share/yaoju/kioskd.toml to {1} and fill it in")},
		"config.denied": {groupConfig, bad, "无权读取 {1}", "{1} may not be read by you", do("用 sudo 再运行一次 yaoju doctor", "run yaoju doctor again with sudo")},
		"config.broken": {groupConfig, bad, "无法读取 {1}：{2}", "{1} cannot be read: {2}", do("检查这个文件和存储卡", "look at this file and at the card")},
		"config.wrong":  {groupConfig, bad, "{1}", "{1}", do("改正这一行，再用 kioskd -check 检查", "correct this line, then ask kioskd -check")},
		"config.loose":  {groupConfig, bad, "其他用户可以改写 {1}", "{1} may be written by others", do("sudo chmod 640 {1}", "sudo chmod 640 {1}")},

		"data.good":   {groupFolders, good, "{1} 属于 {2}，其他人不可读", "{1} belongs to {2} and is closed to others", do("", "")},
		"data.absent": {groupFolders, bad, "没有数据文件夹 {1}", "there is no data folder {1}", do("启动一次 kioskd，它会建立：sudo systemctl start kioskd", "start kioskd once, which makes it: sudo systemctl start kioskd")},
		"data.open":   {groupFolders, bad, "其他用户可以进入 {1}（权限 {2}）", "{1} is open to others (mode {2})", do("sudo chmod 700 {1}", "sudo chmod 700 {1}")},
		"data.owner":  {groupFolders, bad, "{1} 属于 {2}，应属于 {3}", "{1} belongs to {2}, and should to {3}", do("sudo chown -R {3}: {1}", "sudo chown -R {3}: {1}")},
		"data.unseen": {groupFolders, note, "没有权限，看不到 {1} 里面", "what is in {1} could not be seen", do("用 sudo 再运行一次可以看到", "run it again with sudo to see")},
		"file.open":   {groupFolders, bad, "其他用户可以读取 {1}（权限 {2}）", "{1} may be read by others (mode {2})", do("sudo chmod 600 {1}，并当作已泄露处理（见 OPERATE）", "sudo chmod 600 {1}, and take it for known to others (see OPERATE)")},
		"file.owner":  {groupFolders, bad, "{1} 属于 {2}，文件夹属于 {3}", "{1} belongs to {2}, its folder to {3}", do("sudo chown {3}: {1}", "sudo chown {3}: {1}")},

		"kioskd.running": {groupKioskd, good, "kioskd 自 {1} 运行，可以领取", "kioskd runs since {1} and serves", do("", "")},
		"kioskd.empty":   {groupKioskd, note, "kioskd 自 {1} 运行，但机内没有可发的用品", "kioskd runs since {1}, and there is nothing to give", do("补货", "fill the machine")},
		"kioskd.door":    {groupKioskd, note, "kioskd 自 {1} 运行，维护门开着，暂不服务", "kioskd runs since {1}; the service door is open, so nobody is served", do("离开前关好门", "shut it before you leave")},
		"kioskd.paused":  {groupKioskd, note, "kioskd 自 {1} 运行，已被暂停", "kioskd runs since {1} and is paused", do("由区平台恢复", "the district lets it go on")},
		"kioskd.closed":  {groupKioskd, bad, "kioskd 自 {1} 运行，但不服务（{2}）", "kioskd runs since {1} and serves nobody ({2})", do("先处理下面的 ✗", "see to the ✗ below")},
		"kioskd.other":   {groupKioskd, bad, "回答的 kioskd 是机器 {1}，配置里是 {2}", "the kioskd that answers is machine {1}, the configuration says {2}", do("重启 kioskd，让它读取新配置：sudo systemctl restart kioskd", "restart kioskd, so that it reads the file: sudo systemctl restart kioskd")},
		"kioskd.silent":  {groupKioskd, bad, "kioskd 占着数据文件夹，但在 {1} 不回答", "kioskd has the data folder, but does not answer at {1}", do("看日志，再重启它：journalctl -u kioskd -n 50；sudo systemctl restart kioskd", "read its log and restart it: journalctl -u kioskd -n 50; sudo systemctl restart kioskd")},
		"kioskd.stopped": {groupKioskd, bad, "kioskd 没有运行", "kioskd does not run", do("启动它：sudo systemctl start kioskd", "start it: sudo systemctl start kioskd")},
		"kioskd.denied":  {groupKioskd, note, "没有权限向 {1} 询问 kioskd", "you may not ask kioskd at {1}", do("用 sudo 再运行一次", "run it again with sudo")},
		"kioskd.core":    {groupKioskd, bad, "kioskd 允许核心转储，内存里可能有证件号码", "kioskd may dump core, and a card number may be in its memory", do("用安装包自带的 kioskd.service 启动它", "start it by the package's kioskd.service")},
		"fault.notice":   {groupKioskd, note, "{1} {2}{3}", "{1} {2}{3}", do("{4}", "{4}")},
		"fault.stands":   {groupKioskd, bad, "{1} {2}{3}", "{1} {2}{3}", do("{4}", "{4}")},

		"part.up":        {groupParts, good, "{1}（{2}）正常", "{1} ({2}) works", do("", "")},
		"part.starting":  {groupParts, note, "{1}（{2}）还没有回答", "{1} ({2}) has not answered yet", do("一分钟后再看", "look again in a minute")},
		"part.off":       {groupParts, note, "{1}：配置里关闭", "{1}: switched off by the configuration", do("", "")},
		"part.down":      {groupParts, bad, "{1}（{2}）不能用：{3}", "{1} ({2}) does not work: {3}", do("检查{1}的接线和电源", "look at the wires and the power of the {1}")},
		"part.absent":    {groupParts, bad, "{1} 不在 {2}", "the {1} is not at {2}", do("插上{1}；若在别的插口，把下面列出的路径写进 kioskd.toml", "plug in the {1}; if it is in another socket, write the path listed below into kioskd.toml")},
		"part.silent":    {groupParts, bad, "{1}在 {2} 不回答", "the {1} does not answer at {2}", do("给{1}通电，检查 TX/RX 是否接反、波特率是否正确", "give the {1} power, and see whether TX and RX are crossed and the speed is right")},
		"part.wrong":     {groupParts, bad, "{1}（{2}）的线上回答的是{3}", "on the line of the {1} ({2}) answers {3}", do("在 {2} 插上{1}，或把路径改对", "plug the {1} in at {2}, or correct the path")},
		"part.swapped":   {groupParts, bad, "{1}（{2}）的线上回答的是{3}", "on the line of the {1} ({2}) answers {3}", do("把{1}和{4}的插头对调，或对调 kioskd.toml 里的两个路径", "exchange the plugs of {1} and {4}, or the two paths in kioskd.toml")},
		"part.misplaced": {groupParts, bad, "{1}（{2}）：{3}", "{1} ({2}): {3}", do("对调两个插头，或对调 kioskd.toml 里的两个路径", "exchange the two plugs, or the two paths in kioskd.toml")},
		"part.unasked":   {groupParts, note, "部件的情况要在 kioskd 运行时才知道", "how the parts are is known when kioskd runs", do("", "")},
		"part.denied":    {groupParts, bad, "{2} 无权打开 {1}（属于组 {3}）", "{2} may not open {1}, which is for the group {3}", do("sudo usermod -aG {3} {2}，再重启 kioskd", "sudo usermod -aG {3} {2}, then restart kioskd")},
		"part.unstable":  {groupParts, note, "{1} 的名字 {2} 换个插口就会变", "the name {2} of the {1} changes with the order of plugging in", do("改用固定的路径 {3}", "use the path that stays, {3}")},

		"plug.serial":   {groupPlugs, note, "串口 {1}（{2}）未配置", "serial line {1} ({2}) is not configured", do("若它是某个部件，在 kioskd.toml 写 path = \"{3}\"", "if it is one of the parts, write path = \"{3}\" into kioskd.toml")},
		"plug.keyboard": {groupPlugs, note, "键盘式设备 {1} 未配置", "a device that plays a keyboard, {1}, is not configured", do("若是扫码器，在 kioskd.toml 的 [[scanner]] 写 keyboard = \"{1}\"；若是真键盘，拔掉", "if it is a scanner, write keyboard = \"{1}\" under [[scanner]]; if it is a keyboard, unplug it")},
		"plug.none":     {groupPlugs, good, "没有多余的串口设备", "no serial device is left over", do("", "")},

		"clock.synced":   {groupClock, good, "{1}，已同步", "{1}, synchronised", do("", "")},
		"clock.trusted":  {groupClock, note, "{1}；配置写着 clock = \"trusted\"，不问是否同步", "{1}; the configuration says clock = \"trusted\", so nobody asks whether it is right", do("真机上删掉这一行", "on a real machine take that line out")},
		"clock.unsynced": {groupClock, bad, "{1}，没有同步，居民暂不能领取", "{1}, not synchronised: residents are not served", do("接通网络，再看 sudo chronyc sources 有没有时间服务器", "connect the network, then see whether sudo chronyc sources lists a time server")},
		"clock.wrong":    {groupClock, bad, "{1}，这个日期不可能", "{1}, which cannot be", do("接通网络等它同步；没有网络时由员工在屏幕上校时", "connect the network and wait; without one, staff set it at the screen")},
		"clock.rtc":      {groupClock, note, "没有实时时钟芯片：断电后要等联网才知道时间", "no clock chip: after a power cut the time is known only once the network is there", do("", "")},

		"disk.good":     {groupDisk, good, "{1}：剩余 {2}，共 {3}", "{1}: {2} free of {3}", do("", "")},
		"disk.low":      {groupDisk, note, "{1}：只剩 {2}，共 {3}", "{1}: only {2} free of {3}", do("看什么占了空间：sudo du -xh {1} | sort -h | tail", "see what takes the room: sudo du -xh {1} | sort -h | tail")},
		"disk.full":     {groupDisk, bad, "{1}：只剩 {2}，账本将无法写入", "{1}: only {2} free, and soon the ledger cannot be written", do("腾出空间：sudo du -xh {1} | sort -h | tail", "make room: sudo du -xh {1} | sort -h | tail")},
		"disk.readonly": {groupDisk, bad, "{1} 所在的分区只读", "the partition of {1} can only be read", do("重启一次；若仍只读，换存储卡（见 OPERATE）", "restart the computer once; if it stays so, change the card (see OPERATE)")},
		"disk.errors":   {groupDisk, bad, "文件系统 {1} 记录了 {2} 个错误", "the file system {1} counts {2} errors", do("换存储卡（见 OPERATE），先导出数据：sudo yaoju data export FILE", "change the card (see OPERATE), and first take the data off it: sudo yaoju data export FILE")},
		"disk.card":     {groupDisk, note, "存储卡 {1}，{2} 出厂；存储卡不报告磨损，放够三年就换", "card {1}, made {2}; cards do not tell their wear: change it after three years", do("", "")},
		"disk.worn":     {groupDisk, bad, "存储芯片 {1} 已到寿命末期", "memory {1} is at the end of its life", do("换存储（见 OPERATE），先导出数据：sudo yaoju data export FILE", "change it (see OPERATE), and first take the data off it: sudo yaoju data export FILE")},

		"computer.model":  {groupComputer, good, "{1}", "{1}", do("", "")},
		"temp.good":       {groupComputer, good, "{1} °C", "{1} °C", do("", "")},
		"temp.hot":        {groupComputer, bad, "{1} °C，处理器会降速", "{1} °C: the processor slows down", do("清理风扇和通风口，避开日晒", "clean fan and vents, keep the sun off")},
		"power.good":      {groupComputer, good, "供电正常", "the supply is good", do("", "")},
		"power.low":       {groupComputer, bad, "现在电压不足", "the voltage is too low now", do("换原装电源（Pi 4 5 V 3 A，Pi 5 5 V 5 A）和短粗的线", "use the original supply (Pi 4: 5 V 3 A, Pi 5: 5 V 5 A) and a short, thick cable")},
		"power.was":       {groupComputer, note, "开机以来电压曾不足", "the voltage was too low at some time since the start", do("换原装电源和短粗的线", "use the original supply and a short, thick cable")},
		"watchdog.good":   {groupComputer, good, "看门狗由 systemd 喂（{1}）", "systemd feeds the watchdog ({1})", do("", "")},
		"watchdog.idle":   {groupComputer, bad, "看门狗没有启用", "the watchdog is not in use", do("安装 yaoju-kiosk 包后重启；它设置 RuntimeWatchdogSec", "install yaoju-kiosk, which sets RuntimeWatchdogSec, and restart the computer")},
		"watchdog.absent": {groupComputer, note, "没有看门狗设备 /dev/watchdog0", "there is no watchdog, /dev/watchdog0", do("树莓派上运行 sudo yaoju-setup boot 后重启", "on a Pi: sudo yaoju-setup boot, then restart")},
		"console.uart":    {groupComputer, bad, "系统控制台占着串口（{1}）", "the system's console is on the serial line ({1})", do("sudo yaoju-setup boot，然后重启", "sudo yaoju-setup boot, then restart")},
		"i2c.absent":      {groupComputer, bad, "没有 I2C 总线 {1}", "there is no I2C bus {1}", do("sudo yaoju-setup boot，然后重启", "sudo yaoju-setup boot, then restart")},
		"i2c.good":        {groupComputer, good, "I2C 总线 {1}", "I2C bus {1}", do("", "")},
		"units.none":      {groupUnits, note, "这里没有 systemd", "there is no systemd here", do("", "")},
		"unit.active":     {groupUnits, good, "{1} 在运行", "{1} is active", do("", "")},
		"unit.down":       {groupUnits, bad, "{1}：{2}", "{1}: {2}", do("sudo systemctl enable --now {1}；若仍失败：journalctl -u {1} -n 50", "sudo systemctl enable --now {1}; if it fails: journalctl -u {1} -n 50")},
		"unit.off":        {groupUnits, note, "{1} 还没有启用", "{1} is not switched on yet", do("安装的最后一步：sudo {2}", "a last step of the installation: sudo {2}")},
		"unit.unasked":    {groupUnits, note, "问不到 {1}：{2}", "nothing could be learned of {1}: {2}", do("", "")},
		"district.trial":  {groupDistrict, note, "配置写着 tls = \"off\"：只用于本机试验", "the configuration says tls = \"off\": for trials on one computer only", do("", "")},
		"cert.good":       {groupDistrict, good, "证书有效到 {1}（还有 {2} 天），到时自动续期", "the certificate is good until {1} ({2} days) and renewed by itself", do("", "")},
		"cert.none":       {groupDistrict, bad, "本机还没有入网", "this machine is not enrolled", do("在区平台运行 districtd enrol {1}，再在这里运行 sudo yaoju enrol 那一行", "on the district's computer districtd enrol {1}, then here sudo yaoju enrol with the line it prints")},
		"cert.late":       {groupDistrict, bad, "证书有效到 {1}，一周前就该续期", "the certificate is good until {1} and should have been renewed a week ago", do("让 {2} 从这里能连上（网络、防火墙）", "see that {2} can be reached from here (network, firewall)")},
		"cert.ended":      {groupDistrict, bad, "证书已于 {1} 过期", "the certificate ran out on {1}", do("请区平台运行 districtd consent {2}；本机 20 分钟内自己回来", "ask the district for districtd consent {2}; the machine comes back by itself within 20 minutes")},
		"cert.broken":     {groupDistrict, bad, "证书或密钥不能用：{1}", "the certificate or its key is not usable: {1}", do("重新入网：区平台 districtd enrol {2}，这里 sudo yaoju enrol -new-key 那一行", "enrol anew: districtd enrol {2} in the district, here sudo yaoju enrol -new-key with the line")},
		"cert.unseen":     {groupDistrict, note, "没有权限，看不到证书", "the certificate could not be seen", do("用 sudo 再运行一次", "run it again with sudo")},
		"key.tpm":         {groupDistrict, good, "密钥在 TPM 里，拿走存储卡也拿不到", "its key is in the TPM: a copy of the card is of no use elsewhere", do("", "")},
		"key.file":        {groupDistrict, good, "密钥在文件里，只有 kioskd 和 root 能读", "its key is in a file that only kioskd and root can read", do("", "")},
		"reach.good":      {groupDistrict, good, "{1}：名称、TCP、TLS 都通", "{1}: name, TCP and TLS are good", do("", "")},
		"reach.plain":     {groupDistrict, good, "{1}：名称、TCP 都通", "{1}: name and TCP are good", do("", "")},
		"reach.name":      {groupDistrict, bad, "查不到 {1} 的地址：{2}", "the address of {1} cannot be found: {2}", do("检查网线、SIM 卡和名称服务器：resolvectl status", "see to the cable, the SIM card and the name server: resolvectl status")},
		"reach.tcp":       {groupDistrict, bad, "连不上 {1}：{2}", "{1} cannot be reached: {2}", do("看网络是否通、/etc/yaoju/firewall.nft 是否放行、区平台是否在运行", "see whether the network is up, /etc/yaoju/firewall.nft lets it out, and the district runs")},
		"reach.tls":       {groupDistrict, bad, "{1} 的 TLS 握手失败：{2}", "TLS with {1} fails: {2}", do("核对 kioskd.toml 里的地址和本机时钟；若区平台换过 CA，重新入网", "check the address in kioskd.toml and the clock; if the district has a new CA, enrol anew")},
		"reach.refused":   {groupDistrict, bad, "{1} 拒绝了本机的证书：{2}", "{1} refuses this machine's certificate: {2}", do("问区平台是否撤销了本机；若是，重新入网：sudo yaoju enrol -new-key 那一行", "ask the district whether it revoked this machine; if so enrol anew: sudo yaoju enrol -new-key with the line")},
		"uplink.up":       {groupDistrict, good, "已连接，区平台收到了全部 {1} 条记录", "connected, and the district has all {1} records", do("", "")},
		"uplink.behind":   {groupDistrict, note, "区平台收到 {1} 条，共 {2} 条", "the district has {1} of {2} records", do("几分钟后再看；一直不动就问区平台", "look again in some minutes; if it stands still, ask the district")},
		"ledger.good":     {groupLedger, good, "完好：{1} 条记录，机内 {2} 盒", "sound: {1} records, {2} boxes in the machine", do("", "")},
		"ledger.none":     {groupLedger, note, "还没有账本：kioskd 第一次启动时建立", "there is no ledger yet: kioskd makes it at its first start", do("", "")},
		"ledger.open":     {groupLedger, note, "{1} 次出货结果未知，用品和额度都保留着", "of {1} vends nobody knows the end; piece and quota stay set aside", do("清点这些货道", "count those slots")},
		"ledger.damaged":  {groupLedger, bad, "账本损坏：{1}", "the ledger is damaged: {1}", do("换存储卡（见 OPERATE）；kioskd 启动时会把它移开并开始新账本，之后清点全机", "change the card (see OPERATE); at its start kioskd moves the ledger aside and begins a new one: then count the machine")},
		"ledger.other":    {groupLedger, bad, "账本是机器 {1} 的，配置里是 {2}", "the ledger is machine {1}'s, the configuration says {2}", do("核对 kioskd.toml 的 machine；不要带着别人的账本运行", "see to machine in kioskd.toml; never run on another machine's ledger")},
		"ledger.unseen":   {groupLedger, note, "看不到账本：{1}", "the ledger could not be read: {1}", do("用 sudo 再运行一次", "run it again with sudo")},
		"ledger.asides":   {groupLedger, note, "旁边有 {1} 份移开的旧账本", "{1} old ledgers that were moved aside lie beside it", do("区平台确认后可删除：里面有标记", "delete them once the district agrees: there are marks in them")},
	}
}

// partName is what people call a part.
func partName(part string) protocol.Text {
	names := map[string]protocol.Text{
		status.PartBoard:    {ZH: "电机控制板", EN: "motor board"},
		status.PartReader:   {ZH: "身份证读卡器", EN: "card reader"},
		status.PartScanner:  {ZH: "扫码器", EN: "scanner"},
		status.PartBadge:    {ZH: "员工卡读卡器", EN: "staff card reader"},
		status.PartClimate:  {ZH: "温湿度传感器", EN: "climate sensor"},
		status.PartScreen:   {ZH: "屏幕页面", EN: "screen's page"},
		status.PartUplink:   {ZH: "与区平台的连接", EN: "line to the district"},
		status.PartIdentity: {ZH: "证书", EN: "certificate"},
		status.PartClock:    {ZH: "时钟", EN: "clock"},
		status.PartLedger:   {ZH: "账本", EN: "ledger"},
		status.PartDisk:     {ZH: "存储", EN: "disk"},
	}
	if t, ok := names[part]; ok {
		return t
	}
	return protocol.Text{ZH: part, EN: part} // a newer kioskd has parts we do not know
}

// foundName is what people call what answers in another's place.
func foundName(found string) protocol.Text {
	switch found {
	case status.FoundVending:
		return protocol.Text{ZH: "售货机主板", EN: "a vending board"}
	case status.FoundOther:
		return protocol.Text{ZH: "别的设备，或波特率不同", EN: "another device, or one at another speed"}
	}
	t := partName(found)
	return protocol.Text{ZH: t.ZH, EN: "a " + t.EN}
}

// remedy is what to do about a fault that stands.
func remedy(f protocol.Fault) protocol.Text {
	switch f {
	case protocol.FaultJam, protocol.FaultNoDrop:
		return do("开门清理这个货道，清点，再在员工菜单里解除", "open the door, free the slot, count it, and clear it in the staff menu")
	case protocol.FaultNoMotor, protocol.FaultShort:
		return do("断电后检查这个货道电机的插头和线", "switch the power off and see to the plug and wires of this slot's motor")
	case protocol.FaultStuckHome, protocol.FaultRunaway, protocol.FaultNotHome:
		return do("检查原位开关，再在员工菜单里让货道回原位", "see to the home switch, then home the slot in the staff menu")
	case protocol.FaultDropSensor:
		return do("擦净落物传感器两端，拿走挡住它的东西", "wipe both ends of the drop sensor and take away what blocks it")
	case protocol.FaultDoubleDrop, protocol.FaultSpontaneous, protocol.FaultInterrupted, protocol.FaultDoorOpened, protocol.FaultUnknownVend:
		return do("清点这个货道，把数目记入账本", "count this slot and enter the number")
	case protocol.FaultJournal:
		return do("换控制板（见 OPERATE）", "change the motor board (see OPERATE)")
	case protocol.FaultClimate:
		return do("检查温湿度传感器的线", "see to the wires of the climate sensor")
	case protocol.FaultBoardSilent:
		return do("检查控制板的电源和串口线", "see to the power and the serial line of the motor board")
	case protocol.FaultReader:
		return do("检查读卡器的 USB 插头，换一根线", "see to the reader's USB plug, try another cable")
	case protocol.FaultClock:
		return do("接通网络，等时间同步", "connect the network and wait for the time")
	case protocol.FaultLedger, protocol.FaultChain:
		return do("换存储卡（见 OPERATE），之后清点全机", "change the card (see OPERATE), then count the machine")
	case protocol.FaultDisk:
		return do("腾出存储空间", "make room on the disk")
	case protocol.FaultDoor:
		return do("关好维护门", "shut the service door")
	case protocol.FaultPaused:
		return do("由区平台恢复", "the district lets it go on")
	case protocol.FaultBoardKnows:
		return do("不要换回旧控制板；联系维护方", "do not put an old board back; call the maintainers")
	case protocol.FaultElevator, protocol.FaultHatch, protocol.FaultNotTaken, protocol.FaultMicrowave:
		return do("开门查看升降机和取货门", "open the door and look at the elevator and the delivery door")
	}
	return do("看这个货道，再看一次这里", "look at it, then look here again")
}

// finding is one thing the doctor says.
type finding struct {
	Code  string        `json:"code"`
	Group string        `json:"group"`
	Level level         `json:"level"`
	Text  protocol.Text `json:"text"`
	Do    protocol.Text `json:"do,omitzero"`
}

// find makes a finding. An unknown code is a mistake in this program, so it panics.
func find(code string, args ...any) finding {
	s, ok := sayings()[code]
	if !ok {
		panic(fmt.Sprintf("doctor: no saying %q", code))
	}
	zh, en := make([]string, 0, 2*len(args)), make([]string, 0, 2*len(args))
	for i, a := range args {
		place := fmt.Sprintf("{%d}", i+1)
		if t, both := a.(protocol.Text); both {
			zh, en = append(zh, place, t.ZH), append(en, place, t.EN)
			continue
		}
		zh, en = append(zh, place, fmt.Sprint(a)), append(en, place, fmt.Sprint(a))
	}
	inZH, inEN := strings.NewReplacer(zh...), strings.NewReplacer(en...)
	return finding{Code: code, Group: s.group, Level: s.level, Text: protocol.Text{ZH: inZH.Replace(s.zh), EN: inEN.Replace(s.en)},
		Do: protocol.Text{ZH: inZH.Replace(s.do.ZH), EN: inEN.Replace(s.do.EN)}}
}
