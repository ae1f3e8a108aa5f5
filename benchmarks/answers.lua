-- The load of `python -m benchmarks`: POST of single answers with ids that are never used twice.
-- Arguments after `--`: the key, a label of this run, how many learners, how many items, a seed.

local head, label, learners, items
local number = 0

function init(args)
  local key, seed
  key, label, learners, items, seed = unpack(args)
  learners, items = tonumber(learners), tonumber(items)
  math.randomseed(tonumber(seed))
  head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " .. key
    .. "\r\nContent-Type: application/json\r\nContent-Length: "
end

-- Ids begin with chance, as those of most callers do: the index of the log is met all over, not at its end.
function request()
  number = number + 1
  local body = string.format(
    '{"id":"%08x-%s-%d","learner":"learner-%d","item":"item-%d","correct":%s}',
    math.random(0, 2147483647), label, number, math.random(0, learners - 1), math.random(0, items - 1),
    tostring(math.random() < 0.65)
  )
  return head .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency)
  local failed = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.status, failed.connect + failed.read + failed.write + failed.timeout
  ))
end
