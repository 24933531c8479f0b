-- Puts records on a topic: all of them or none, what is known not again, and the lowest priority goes first.
-- KEYS: streams of priority 1 to 4, keys -> where, counts. ARGV: most, now, then (priority, until, key, raw) each.
local keys, counts = KEYS[5], KEYS[6]
local most, now = tonumber(ARGV[1]), tonumber(ARGV[2])

local function before(one, other) -- whether an id of an entry is lower than another
  local a, b = string.match(one, '(%d+)-(%d+)')
  local c, d = string.match(other, '(%d+)-(%d+)')
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  return a < c or (a == c and b < d)
end

local function field(entry, name)
  for at = 1, #entry[2], 2 do
    if entry[2][at] == name then return entry[2][at + 1] end
  end
  return ''
end

local function remove(stream, entry)
  redis.call('XDEL', stream, entry[1])
  local key = field(entry, 'k')
  if key ~= '' then redis.call('HDEL', keys, key) end
end

local function info(stream) -- groups of a stream, as tables by name
  local groups = {}
  if redis.call('EXISTS', stream) == 0 then return groups end
  for _, flat in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local group = {}
    for at = 1, #flat, 2 do group[flat[at]] = flat[at + 1] end
    groups[#groups + 1] = group
  end
  return groups
end

-- The first id that is not done by every group, and whether itself is the last that is; nil: there is no group.
local function done_below(stream)
  local lowest, inclusive = nil, false
  for _, group in ipairs(info(stream)) do
    local id, own = group['last-delivered-id'], true
    if group['pending'] > 0 then
      id, own = redis.call('XPENDING', stream, group['name'])[2], false
    end
    if lowest == nil or before(id, lowest) or (id == lowest and not own) then lowest, inclusive = id, own end
  end
  return lowest, inclusive
end

local held, total = {}, 0
for priority = 1, 4 do
  held[priority] = redis.call('XLEN', KEYS[priority])
  total = total + held[priority]
end
local coming = (#ARGV - 2) / 4

if total + coming > most then -- what is expired goes, and of what is done as much as half of the topic may hold
  local wanted = total + coming - math.floor(most / 2)
  for priority = 1, 4 do
    local stream = KEYS[priority]
    local limit, inclusive = done_below(stream)
    for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
      local done = limit ~= nil and (before(entry[1], limit) or (inclusive and entry[1] == limit))
      local late = tonumber(field(entry, 'u')) <= now
      if late or (done and wanted > 0) then
        if late and not done then redis.call('HINCRBY', counts, 'expired', 1) end
        remove(stream, entry)
        held[priority], total, wanted = held[priority] - 1, total - 1, wanted - 1
      end
    end
  end
end

local stored, known, displaced, shed = 0, 0, 0, {}
for at = 0, coming - 1 do
  local priority, till = tonumber(ARGV[3 + 4 * at]), ARGV[4 + 4 * at]
  local key, raw = ARGV[5 + 4 * at], ARGV[6 + 4 * at]
  if key ~= '' and redis.call('HEXISTS', keys, key) == 1 then
    known = known + 1
  else
    if total >= most then
      for lower = 1, priority - 1 do
        if held[lower] > 0 then
          local oldest = redis.call('XRANGE', KEYS[lower], '-', '+', 'COUNT', 1)
          remove(KEYS[lower], oldest[1])
          held[lower], total, displaced = held[lower] - 1, total - 1, displaced + 1
          break
        end
      end
    end
    if total >= most then
      shed[#shed + 1] = at
    else
      local id = redis.call('XADD', KEYS[priority], '*', 'u', till, 'k', key, 'r', raw)
      if key ~= '' then redis.call('HSET', keys, key, id) end
      held[priority], total, stored = held[priority] + 1, total + 1, stored + 1
    end
  end
end
if displaced + #shed > 0 then redis.call('HINCRBY', counts, 'shed', displaced + #shed) end
return {stored, known, displaced, shed}
