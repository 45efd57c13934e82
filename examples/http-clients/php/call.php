<?php
// Calls one method through RSF's HTTP adapter. Needs no extension.
declare(strict_types=1);

/** A call that failed: the code is Connect's, the reason RSF's own. */
final class RpcException extends RuntimeException
{
    public function __construct(string $message, public readonly string $rpcCode, public readonly string $reason)
    {
        parent::__construct($message);
    }
}

/**
 * @param array<string, mixed> $request an empty array is an empty message: the adapter knows that PHP writes it as []
 * @return array<string, mixed>
 */
function rpc_call(string $adapter, string $method, array $request, int $timeoutMs, string $key): array
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => [
            'Content-Type: application/json',
            "Connect-Timeout-Ms: $timeoutMs",
            "Idempotency-Key: $key",
        ],
        'content' => json_encode($request, JSON_THROW_ON_ERROR),
        'ignore_errors' => true, // so that the body of an error can be read
        'timeout' => $timeoutMs / 1000 + 1,
    ]]);
    $body = @file_get_contents(rtrim($adapter, '/') . "/$method", false, $context);
    if ($body === false) {
        throw new RpcException("cannot reach $adapter; does the adapter run?", 'unavailable', 'connect');
    }
    $headers = $http_response_header;
    $reply = json_decode($body, true, 512, JSON_BIGINT_AS_STRING);
    if (preg_match('~^HTTP/\S+ 200 ~', $headers[0] . ' ')) {
        return $reply;
    }
    $reason = array_values(array_filter($headers, fn ($line) => stripos($line, 'rsf-reason:') === 0));
    throw new RpcException(
        $reply['message'] ?? trim($body),
        $reply['code'] ?? 'unknown',
        trim(substr($reason[0] ?? '', strlen('rsf-reason:'))),
    );
}

if ($argc !== 4) {
    fwrite(STDERR, "usage: php call.php http://adapter:port package.Service/Method '{json}'\n");
    exit(2);
}
try {
    $request = json_decode($argv[3], true, 512, JSON_THROW_ON_ERROR);
    echo json_encode(rpc_call($argv[1], $argv[2], $request, 3000, bin2hex(random_bytes(16)))), "\n";
} catch (JsonException $error) {
    fwrite(STDERR, "the request is no JSON: {$error->getMessage()}\n");
    exit(2);
} catch (RpcException $error) {
    fwrite(STDERR, "$error->rpcCode ($error->reason): {$error->getMessage()}\n");
    exit(1);
}
